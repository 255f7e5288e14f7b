from __future__ import annotations

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

import sleepstage as ss
from sleepstage.__main__ import main
from sleepstage.dataset.table import consecutive_runs
from sleepstage.dataset.windows import covering_starts, line_tokens
from sleepstage.finetuning import base_model
from sleepstage.finetuning.memory_plan import (
    ARCHITECTURES,
    DIGITS_A_TOKEN,
    GIB,
    dequantization_bytes,
    prepare_for_training,
    take_step,
    trace_step,
    twin,
    weights_bytes,
)
from sleepstage.finetuning.settings import AMPERE, CPU, LLAMA_3B, OFFLINE_MODEL, T4
from sleepstage.finetuning.trainer import lora_config

LORA = lora_config(ss.TrainingConfig(lora_rank=8))
WINDOWS, TOKENS, ANSWERS = 2, 361, 34


@pytest.fixture(scope="module")
def architecture():
    """Large enough for its activations to stand out, small enough for a step to take a second."""
    return LlamaConfig(
        vocab_size=3000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )


def measured_peak(model, preset, n_answers) -> int:
    """The most bytes that PyTorch's allocator handed out in a step beyond those it had before."""
    model.config.use_cache = False
    prepare_for_training(model, preset)
    take_step(model, preset.dtype, WINDOWS, TOKENS, n_answers)  # from now on there are gradients
    gc.collect()  # or what earlier tests left is freed in this step, and counts against it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_step(model, preset.dtype, WINDOWS, TOKENS, n_answers)
    events = profiler.profiler.kineto_results.events()
    return np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"]).max()


@pytest.mark.parametrize(
    ("dtype", "gradient_checkpointing", "n_answers"),
    [
        (torch.float32, False, ANSWERS),
        (torch.float32, True, ANSWERS),
        (torch.float32, False, None),
        (torch.bfloat16, False, ANSWERS),
        (torch.bfloat16, True, None),
    ],
)
def test_trace_is_what_a_real_step_takes(architecture, dtype, gradient_checkpointing, n_answers):
    preset = replace(CPU, dtype=dtype, gradient_checkpointing=gradient_checkpointing)
    traced = trace_step(twin(architecture, preset, LORA), preset, WINDOWS, TOKENS, n_answers)
    model = get_peft_model(AutoModelForCausalLM.from_config(architecture, dtype=dtype), LORA)
    with disable_input_dtype_casting(model):  # as in a quantized model
        measured = measured_peak(model, preset, n_answers)
    assert traced.peak == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_is_the_traced_twin_and_what_arithmetic_adds(architecture, dtype, tmp_path, monkeypatch):
    preset = replace(CPU, dtype=dtype)
    monkeypatch.setattr(base_model, "detect", lambda: preset)
    AutoModelForCausalLM.from_config(architecture).save_pretrained(tmp_path)
    model = base_model.load_base(tmp_path, nf4=True)
    assert model.get_input_embeddings().weight.dtype == dtype  # or another preset was asked for
    model = get_peft_model(model, LORA)
    unquantized = twin(architecture, preset, LORA)
    held = [weight for weight in model.parameters() if not weight.requires_grad]
    scales = [weight.quant_state for weight in held if hasattr(weight, "quant_state")]
    held += [state.absmax for state in scales] + [state.code for state in scales]
    held += [state.offset for state in scales]
    held += [part for state in scales for part in (state.state2.absmax, state.state2.code)]
    n_bytes = {part.data_ptr(): part.numel() * part.element_size() for part in held}
    assert weights_bytes(unquantized, nf4=True) == pytest.approx(sum(n_bytes.values()), rel=0.01)
    step = trace_step(unquantized, preset, WINDOWS, TOKENS, ANSWERS)
    assert step.peak + dequantization_bytes(unquantized) == pytest.approx(
        measured_peak(model, preset, ANSWERS), rel=0.15
    )


def test_operations_are_those_of_the_matrix_products(architecture):
    """Two a weight and token forward, two back through frozen weights, and four through the adapter's."""
    preset = replace(CPU, gradient_checkpointing=False)
    model = twin(architecture, preset, LORA)
    flops = trace_step(model, preset, WINDOWS, TOKENS, ANSWERS).flops
    tokens, answers = WINDOWS * TOKENS, WINDOWS * ANSWERS
    layers = sum(p.numel() for name, p in model.named_parameters() if name.endswith("base_layer.weight"))
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = architecture.vocab_size * architecture.hidden_size
    products = 4 * tokens * layers + 6 * tokens * adapter + 4 * answers * head
    scores = architecture.num_hidden_layers * WINDOWS * TOKENS**2 * architecture.hidden_size
    attention = (2 + 5) * 2 * scores  # two products forward, five back
    assert flops == pytest.approx(products + attention, rel=0.05)  # the first layer's input has no gradient


@pytest.mark.parametrize("base", [OFFLINE_MODEL, LLAMA_3B])
def test_tokens_of_a_line_are_what_the_tokenizer_makes_of_it(base, smollm2_tokenizer, llama3_tokenizer):
    tokenizer = smollm2_tokenizer if base == OFFLINE_MODEL else llama3_tokenizer
    for n_digits in (1, 3, 8, 16):
        levels = np.random.default_rng(0).integers(0, 10, (50, n_digits)).astype(np.int8)
        tokens = line_tokens(levels, tokenizer).shape[1]
        assert tokens == -(-n_digits // DIGITS_A_TOKEN[base]) + 1


def test_architecture_of_the_offline_model_is_its_own(smollm2_tokenizer):
    own = ss.load_base(OFFLINE_MODEL, nf4=False).config
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        assert getattr(ARCHITECTURES[OFFLINE_MODEL], name) == getattr(own, name)
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings"):
        assert getattr(ARCHITECTURES[OFFLINE_MODEL], name) == getattr(own, name)


def test_architecture_of_the_3b_has_its_published_size():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[LLAMA_3B])
    assert model.num_parameters() == 3_212_749_824  # Meta's model card says 3.21 billion


def test_t4_takes_less_than_half_of_the_earlier_attempt_and_says_what_the_loss_saves(tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert main(["plan", "--preset", "t4", "--json", str(file)]) == 0
    plan = json.loads(file.read_text())
    assert plan["fits"] and plan["peak_gib"] < 8 < plan["memory_gib"] == T4.memory_gib
    parts = sum(plan[f"{part}_gib"] for part in ("weights", "lora", "optimizer", "activations"))
    assert parts <= plan["peak_gib"] <= parts + plan["logits_gib"]
    assert plan["gradient_checkpointing"] and plan["nf4"] and plan["dtype"] == "float16"
    full = plan["windows_per_batch"] * plan["tokens_per_window"] * 128_256 * 4 / GIB
    assert plan["full_logits_gib"] > max(2 * full, 5 * plan["logits_gib"])  # logits, and their gradient
    assert plan["full_logits_peak_gib"] > plan["peak_gib"] + 1
    assert 3e9 * 4 < plan["flops_per_pass"] / plan["tokens_per_pass"] < 3e9 * 8  # with recomputed layers
    printed = capsys.readouterr().out
    assert f"{plan['peak_gib']:.2f} GiB" in printed and "cannot trace" in printed


def test_plan_for_a_table_counts_its_own_windows(table, smollm2_tokenizer, monkeypatch, architecture):
    monkeypatch.setitem(ARCHITECTURES, OFFLINE_MODEL, architecture)
    plan = ss.training_plan(CPU, table, windows_per_batch=1, nf4=False)
    spec = ss.PromptSpec.fit(table, ss.default_digits(table))
    assert plan["tokens_per_epoch"] == line_tokens(spec.levels(table), smollm2_tokenizer).shape[1]
    plain, hinted = 1 + spec.window * plan["tokens_per_epoch"], 1 + spec.examples * plan["tokens_per_epoch"]
    assert plan["tokens_per_window"] == plain + hinted
    (run,) = consecutive_runs(table)
    n_windows = len(covering_starts(run.stop, spec, stride=spec.window - spec.look_ahead))
    assert plan["tokens_per_pass"] == round(n_windows * (plain + 0.5 * hinted))  # half of the nights
    unhinted = ss.training_plan(CPU, table, windows_per_batch=1, nf4=False, hinted_share=0.0)
    assert unhinted["tokens_per_window"] == plain and unhinted["tokens_per_pass"] == n_windows * plain
    assert unhinted["peak_gib"] < plan["peak_gib"]
    assert unhinted["flops_per_pass"] / n_windows == pytest.approx(
        plan["flops_per_pass"] / plan["tokens_per_pass"] * plain, rel=0.2
    )


@pytest.mark.parametrize(
    ("preset", "window", "look_ahead", "n_windows", "measured"),
    [(T4, 40, 6, 4, 2.71), (T4, 80, 0, 4, 3.00), (AMPERE, 80, 0, 4, 9.77)],
)
def test_plan_of_the_3b_is_what_a_card_took(preset, window, look_ahead, n_windows, measured):
    """Measured by ``benchmarks/gpu.py`` with 18 digits on an H200 (docs/GPUS.md), without its leftovers."""
    digits = tuple(ss.Digit(f"x{i}") for i in range(18))
    spec = ss.PromptSpec(digits, window=window, look_ahead=look_ahead, bidirectional=not look_ahead)
    plan = ss.training_plan(preset, spec=spec, windows_per_batch=n_windows, hinted_share=0.0)
    assert plan["peak_gib"] == pytest.approx(measured, rel=0.15)


def test_a_base_of_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="no architecture of 'other/model'"):
        ss.training_plan(replace(CPU, base="other/model"))
