from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import sleepstage as ss
from sleepstage.files import check_replaceable
from sleepstage.finetuning import adapter as adapter_module
from sleepstage.finetuning import base_model
from sleepstage.finetuning.adapter import ADAPTER, load_adapter, save_adapter
from sleepstage.finetuning.settings import CPU
from sleepstage.finetuning.trainer import build_trainer


@pytest.fixture(scope="module")
def spec():
    return ss.PromptSpec(
        digits=(ss.Digit("std_uv"), ss.Digit("mobility")), window=10, look_ahead=2, bidirectional=True
    )


@pytest.fixture(scope="module")
def adapter(table, spec, tiny_base, tmp_path_factory):
    """An adapter trained beside NF4 weights, whose matrices are large enough to matter."""
    folder = tmp_path_factory.mktemp("export") / "adapter"
    ss.finetune(table[:300], spec, ss.TrainingConfig(base=str(tiny_base), n_steps=1, lora_rank=4), folder)
    trainer = build_trainer(
        table[:300], spec, ss.TrainingConfig(start_from=str(folder), base=str(tiny_base), n_steps=1), folder
    )
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(replace(load_adapter(folder), model=trainer.model), folder)
    return folder


def test_merged_model_gives_the_adapters_probabilities(adapter, table, tmp_path):
    merged = ss.Stager.from_pretrained(ss.merge(adapter, tmp_path / "merged")).predict_proba(table)
    unmerged = ss.Stager.from_pretrained(adapter, nf4=False).predict_proba(table)
    pd.testing.assert_frame_equal(merged, unmerged, atol=1e-5, rtol=0)
    base = ss.Stager.from_base(ss.PromptSpec.load(adapter / "prompt.json"), _base(adapter), nf4=False)
    assert np.abs(merged - base.predict_proba(table)).to_numpy().max() > 0.01


def test_merged_folder_is_an_ordinary_model_with_its_prompt(adapter, tmp_path):
    folder = ss.merge(adapter, tmp_path / "merged")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} < names
    assert {"prompt.json", "prior.json", "train.json"} < names and "adapter_config.json" not in names
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    sizes = [ss.load_base(path, nf4=False).num_parameters() for path in (folder, _base(adapter))]
    assert sizes[0] == sizes[1]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_base_that_comes_quantized_is_dequantized_before_the_merge(
    dtype, adapter, spec, table, tiny_base, tmp_path, monkeypatch
):
    """A T4 multiplies in float16, so there the merged weights are float16."""
    quantized = tmp_path / "quantized"
    ss.load_base(tiny_base, nf4=True).save_pretrained(quantized)
    ss.load_tokenizer(tiny_base).save_pretrained(quantized)
    config = ss.TrainingConfig(base=str(quantized), n_steps=1, lora_rank=4, learning_rate=0.1)
    ss.finetune(table[:300], spec, config, tmp_path / "adapter")
    trained = ss.Stager.from_pretrained(tmp_path / "adapter").predict_proba(table)
    monkeypatch.setattr(base_model, "detect", lambda: replace(CPU, dtype=dtype))
    merged = ss.Stager.from_pretrained(ss.merge(tmp_path / "adapter", tmp_path / "merged"))
    assert {weight.dtype for weight in merged.model.parameters()} == {dtype}
    # Beside NF4 the weights are rounded to bfloat16 in each layer; merged, to the machine's precision once.
    pd.testing.assert_frame_equal(merged.predict_proba(table), trained, atol=2e-3, rtol=0)


def test_a_large_merged_model_is_written_in_parts(adapter, table, tmp_path, monkeypatch):
    """All at once, 3B would fill the memory of Colab's host on the way from the card to the disk."""
    whole = ss.Stager.from_pretrained(ss.merge(adapter, tmp_path / "whole")).predict_proba(table[:50])
    monkeypatch.setattr(adapter_module, "SHARD_BYTES", 100_000)
    folder = ss.merge(adapter, tmp_path / "parts")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    parts = ss.Stager.from_pretrained(ss.merge(adapter, folder)).predict_proba(table[:50])
    pd.testing.assert_frame_equal(parts, whole)


def test_merging_over_the_adapter_itself_is_refused(adapter):
    with pytest.raises(ValueError, match="still needed"):
        ss.merge(adapter, adapter.parent / "." / adapter.name)
    assert (adapter / "adapter_model.safetensors").is_file()


def test_merging_replaces_a_merged_model_and_nothing_else(adapter, tiny_base, tmp_path, monkeypatch):
    merged = ss.merge(adapter, tmp_path / "merged")
    assert ss.merge(adapter, merged) == merged  # again, with another adapter say
    (merged / "thesis.docx").write_text("four years")
    before = {path: path.read_bytes() for path in merged.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("sleepstage.finetuning.adapter.load_adapter", lambda *_, **__: pytest.fail("it began"))
        with pytest.raises(ValueError, match="holds 'thesis.docx'.*Nothing was deleted"):
            ss.merge(adapter, merged)
        with pytest.raises(ValueError, match="no prior.json"):
            ss.merge(adapter, tiny_base)  # an ordinary model, not one that was merged here
        with pytest.raises(ValueError, match="still needed"):
            ss.merge(adapter, adapter.parent)
    assert {path: path.read_bytes() for path in merged.iterdir()} == before
    assert (tiny_base / "model.safetensors").is_file()


def test_a_merged_model_is_kept_while_it_is_the_base(adapter, spec, table, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    config = ss.TrainingConfig(base=str(merged), n_steps=1, lora_rank=4)
    ss.finetune(table[:300], spec, config, tmp_path / "second")
    with pytest.raises(ValueError, match="still needed"):
        ss.merge(tmp_path / "second", merged)
    assert (merged / "model.safetensors").is_file()


@pytest.mark.parametrize("wrong", [float("nan"), 1e6])
def test_weights_that_are_not_finite_are_not_written(wrong, adapter, tmp_path):
    loaded = load_adapter(adapter)
    next(p for name, p in loaded.model.named_parameters() if "lora_B" in name).data[0] = wrong
    with pytest.raises(ValueError, match="lora_B.* nothing was written.*learning rate"):
        save_adapter(loaded, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_nothing_is_pushed_without_a_token(adapter, monkeypatch):
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: pytest.fail("it called the hub"))
    for token in (None, ""):
        with pytest.raises(ValueError, match="there is no token"):
            ss.push(adapter, "someone/adapter", token)


def test_push_makes_a_private_repository_and_uploads_the_folder(adapter, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **kw: calls.append((self.token, repo, kw)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kw: calls.append(kw) or "https://there")
    assert ss.push(adapter, "someone/adapter", "secret") == "https://there"
    assert calls == [
        ("secret", "someone/adapter", {"private": True, "exist_ok": True}),
        {"folder_path": adapter, "repo_id": "someone/adapter"},
    ]


def _base(adapter):
    return json.loads((adapter / "train.json").read_text())["base"]


def test_a_users_own_train_json_is_not_overwritten(tmp_path):
    (tmp_path / "train.json").write_text("mine")
    with pytest.raises(ValueError, match="no prior.json.*Nothing was deleted"):
        check_replaceable(tmp_path, ADAPTER)
    assert (tmp_path / "train.json").read_text() == "mine"


# ---------------------------------------------------------------- strangers' adapters


@pytest.fixture
def strangers(adapter, tmp_path):
    """A copy of the adapter, to be changed."""
    return shutil.copytree(adapter, tmp_path / "strangers")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"peft_type": kind} for kind in ("IA3", "LOHA", "BOFT", None)],
        *[{name: True} for name in ("use_dora", "use_rslora", "lora_bias", "use_qalora")],
        *[{"init_lora_weights": way} for way in ("pissa", "olora", "loftq")],  # they change the base model
        *[
            {"modules_to_save": ["lm_head"]},
            {"bias": "all"},
            {"lora_dropout": 0.5},
            {"rank_pattern": {"q": 1}},
        ],
        *[{"layers_to_transform": [0]}, {"trainable_token_indices": [5]}, {"of_a_newer_peft": {"x": 1}}],
        *[{"r": rank} for rank in (10**6, 0, -4, "4", 4.5, True, None)],
        *[{"lora_alpha": alpha} for alpha in (float("nan"), 0, -1, "8")],
        *[{"target_modules": names} for names in ("(a+)+$", ".*", "all-linear", None, [1], {"q_proj": 1})],
    ],
    ids=str,
)
def test_what_is_more_than_a_plain_lora_is_refused(wrong, strangers, monkeypatch):
    change(strangers / "adapter_config.json", **wrong)
    monkeypatch.setattr(
        "sleepstage.finetuning.base_model.load_base", lambda *_: pytest.fail("it loaded a model")
    )
    with pytest.raises(ValueError, match=f"adapter_config.json is not a plain LoRA's: .*{next(iter(wrong))}"):
        load_adapter(strangers)


def test_layers_that_are_not_linear_are_not_changed(strangers):
    for name in ("embed_tokens", "lm_head", "input_layernorm"):
        change(strangers / "adapter_config.json", target_modules=["q_proj", name])
        with pytest.raises(ValueError, match=f"changes .*{name}, expected linear layers only"):
            load_adapter(strangers)


def _without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def _changed(value):
    def change(tensors):
        name = min(tensors)
        return tensors | {name: value(tensors[name])}

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {},
        _without("lora_B"),
        _without("layers.1."),
        _without("layers.1.mlp.up_proj.lora_A"),
        lambda tensors: {name.replace("layers.1.", "layers.2."): each for name, each in tensors.items()},
        lambda tensors: {name.replace("base_model.", ""): each for name, each in tensors.items()},
        lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": torch.zeros(49152, 64)},
        lambda tensors: tensors | {"base_model.model.model.norm.weight": torch.zeros(64)},
        _changed(lambda tensor: tensor[:-1]),
        _changed(lambda tensor: tensor.T),
        _changed(lambda tensor: tensor.int()),
        _changed(lambda tensor: tensor * torch.nan),
        _changed(lambda tensor: tensor / 0),
    ],
)
def test_only_the_exact_set_of_finite_tensors_is_loaded(change, strangers):
    path = strangers / "adapter_model.safetensors"
    save_file({name: each.contiguous() for name, each in change(load_file(path)).items()}, path)
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        load_adapter(strangers)


def test_damaged_weights_are_refused_by_name(strangers):
    path = strangers / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="adapter_model.safetensors is not a whole file of tensors"):
        load_adapter(strangers)


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"base": value} for value in (None, 5, ["x"])],
        *[{"nf4": value} for value in ("no", None, 1)],
        *[{"subjects": value} for value in ("Ann", None, [None], [[1]])],
        *[{"base_fingerprint": None}, {"tokenizer_hash": 7}, {"label_token_ids": 7}],
    ],
    ids=str,
)
def test_a_card_of_another_shape_is_refused_by_name(wrong, strangers):
    change(strangers / "train.json", **wrong)
    with pytest.raises(ValueError, match=f"train.json is not a training's notes: {next(iter(wrong))}|hold"):
        load_adapter(strangers)
    (strangers / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="it lacks 'base'"):
        load_adapter(strangers)


def test_nothing_is_fetched_because_a_file_names_it(strangers, monkeypatch):
    change(strangers / "train.json", base="stranger/model")
    monkeypatch.setattr(base_model, "load_tokenizer", lambda *_: pytest.fail("it went on"))
    with pytest.raises(
        FileNotFoundError, match="stranger/model is not on this computer.*base='stranger/model'"
    ):
        load_adapter(strangers)


@pytest.mark.parametrize("n_layers", [1, 3, 10**5])
def test_a_merged_model_with_a_layer_more_or_less_is_refused(n_layers, adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    change(merged / "config.json", num_hidden_layers=n_layers)
    with pytest.raises(
        ValueError, match="model.safetensors does not hold the tensors|num_hidden_layers is 1000"
    ):
        load_adapter(merged)


def test_a_merged_folder_runs_and_fetches_nothing(adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    (merged / "code.py").write_text("raise SystemExit('it ran')")
    change(merged / "config.json", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    load_adapter(merged)  # as the model that it is, and without a question
    shutil.copy(adapter / "adapter_config.json", merged)
    with pytest.raises(ValueError, match="holds an adapter, expected a base model"):
        load_adapter(merged)


def test_millions_of_labels_and_a_list_in_place_of_settings_are_refused_at_once(adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    (merged / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match="generation_config.json is not a JSON file of names and values"):
        load_adapter(merged)
    change(merged / "config.json", num_labels=10**8)
    with pytest.raises(ValueError, match="config.json: num_labels is 100000000, expected"):
        load_adapter(merged)


@pytest.mark.parametrize(
    "settings",
    [
        *[{"dtype": value} for value in ("float8_e4m3fn", 5)],
        *[{"quantization_config": value} for value in ({"quant_method": "gptq", "bits": 4}, {})],
        *[{"head_dim": 0}, {"hidden_size": -64}, {"pad_token_id": 10**9}],
        {"rope_parameters": {"rope_type": "x"}},
    ],
)
def test_settings_of_no_model_are_refused_by_name(settings, adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    change(merged / "config.json", **settings)
    with pytest.raises(ValueError, match="config.json is not a merged model's|does not fit"):
        load_adapter(merged)


def test_a_merged_folders_attention_is_not_fetched_from_a_hub(adapter, table, tmp_path):
    """Where the package "kernels" is installed, transformers fetches and runs what such a name says."""
    merged = ss.merge(adapter, tmp_path / "merged")
    before = ss.Stager.from_pretrained(merged).predict_proba(table[:20])
    change(merged / "config.json", attn_implementation="owner/kernel")
    pd.testing.assert_frame_equal(ss.Stager.from_pretrained(merged).predict_proba(table[:20]), before)


def test_a_merged_folder_names_no_weights_elsewhere(adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    weights = merged / "model.safetensors"
    index = {"weight_map": dict.fromkeys(load_file(weights), "../model.safetensors")}
    weights.rename(tmp_path / "model.safetensors")
    (merged / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names the weights .*, expected a file in the folder"):
        load_adapter(merged)
    (merged / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ValueError, match="merged is not a merged model's folder"):
        load_adapter(merged)


def test_another_tokenizer_beside_a_merged_model_is_refused(adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    change(merged / "train.json", label_token_ids=[1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="label_token_ids"):
        load_adapter(merged)


def test_a_merged_model_is_not_merged_again(adapter, tmp_path):
    merged = ss.merge(adapter, tmp_path / "merged")
    with pytest.raises(ValueError, match="is a merged model already"):
        ss.merge(merged, tmp_path / "again")
