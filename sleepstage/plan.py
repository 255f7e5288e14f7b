"""What a fine-tuning will need, before a machine is asked for: memory, tokens and operations.

Weights and optimizer are counted from the base model's configuration. Activations are traced: one real
training step runs on tensors that have a shape but no content, and every tensor that it makes is counted
while it lives.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from transformers import LlamaConfig

from .presets import LLAMA_3B, OFFLINE_MODEL, Preset
from .prompts import COHORT_COLUMNS, EEG_COLUMNS, Digit, PromptSpec, default_digits
from .qlora import lora_config
from .trace import Texts, trace_step, twin
from .windows import covering_starts, segments

GIB = 2**30
NIGHTS, EPOCHS_A_NIGHT = 16, 1000  # where no table is given: eight people's two nights in Sleep-EDF
NOT_TRACED = (
    "Not in it, for a CPU cannot trace them: the CUDA context and the kernels' workspaces (some hundred MB), "
    "that of scaled-dot-product attention among them; its scores are counted as if they were kept in full."
)

ARCHITECTURES = {
    LLAMA_3B: LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
    OFFLINE_MODEL: LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
}
DIGITS_A_TOKEN = {LLAMA_3B: 3, OFFLINE_MODEL: 1}  # what their tokenizers make of a line of digits

_NF4_BLOCK, _SCALES_BLOCK = 64, 256  # weights that share a scale of one byte; scales that share a float32
_NF4_TABLES = 4 * (16 + 256 + 1)  # of a matrix: values of four bits, values of its scales, their mean


def training_plan(preset: Preset, table: pd.DataFrame | None = None, **settings: Any) -> dict[str, Any]:
    """Compute what fine-tuning a preset's base model needs.

    Parameters
    ----------
    preset : Preset
        Its base must be one of ``ARCHITECTURES``.
    table : pandas.DataFrame, optional
        The training table; without one, sixteen nights of a thousand epochs with the features of an EEG.
    **settings
        For :class:`sleepstage.TrainingConfig`, ``windows_per_batch`` or ``lora_rank`` say.

    Returns
    -------
    dict
        ``peak_gib``, ``memory_gib``, ``fits``; its parts ``weights_gib``, ``lora_gib`` (weights and
        gradients), ``optimizer_gib``, ``activations_gib`` and ``logits_gib``: logits are at their most at
        another moment than all together, so that the parts can come to more than the peak; the same two
        with the usual loss on every token, ``full_logits_peak_gib`` and ``full_logits_gib``;
        ``tokens_per_epoch`` (of sleep), ``tokens_per_pass`` and ``flops_per_pass`` over the table, and what
        was traced.

    Raises
    ------
    ValueError
        If the base is another.
    """
    config = preset.training_config(**settings)
    if config.base not in ARCHITECTURES:
        raise ValueError(f"there is no architecture of {config.base!r}, only of {', '.join(ARCHITECTURES)}")
    digits = default_digits(table) if table is not None else map(Digit, EEG_COLUMNS + COHORT_COLUMNS)
    spec = PromptSpec(digits=tuple(Digit(digit.column) for digit in digits))  # cut points change no length
    tokens_per_epoch = math.ceil(len(spec.digits) / DIGITS_A_TOKEN[config.base]) + 1
    answers = spec.window - spec.look_ahead
    texts = Texts(config.windows_per_batch, 1 + spec.window * tokens_per_epoch, answers)
    runs = [EPOCHS_A_NIGHT] * NIGHTS if table is None else [run.stop - run.start for run in segments(table)]
    n_windows = sum(len(covering_starts(n_epochs, spec, stride=answers)) for n_epochs in runs)

    model = twin(ARCHITECTURES[config.base], preset, lora_config(config))
    weights = weights_bytes(model, nf4=config.nf4)
    lora = [p.numel() for p in model.parameters() if p.requires_grad]
    optimizer = sum(optimizer_bytes(numel, preset.optimizer) for numel in lora)
    fixed = weights + 8 * sum(lora) + optimizer  # weights and gradients are float32
    workspace = dequantization_bytes(model) if config.nf4 else 0
    step = trace_step(model, preset, texts)
    full = trace_step(model, preset, texts, every_token=True)
    peak = fixed + step.peak_bytes + workspace
    return {
        "preset": preset.name,
        "base": config.base,
        "nf4": config.nf4,
        "dtype": str(preset.dtype).removeprefix("torch."),
        "gradient_checkpointing": preset.gradient_checkpointing,
        "windows_per_batch": texts.n_windows,
        "tokens_per_window": texts.n_tokens,
        "answers_per_window": texts.n_answers,
        "weights_gib": weights / GIB,
        "lora_gib": 8 * sum(lora) / GIB,
        "optimizer_gib": optimizer / GIB,
        "activations_gib": (step.peak_bytes - step.logits_at_peak_bytes + workspace) / GIB,
        "logits_gib": step.logits_bytes / GIB,
        "peak_gib": peak / GIB,
        "memory_gib": preset.memory_gib,
        "fits": peak <= preset.memory_gib * GIB,
        "full_logits_gib": full.logits_bytes / GIB,
        "full_logits_peak_gib": (fixed + full.peak_bytes + workspace) / GIB,
        "tokens_per_epoch": tokens_per_epoch,
        "tokens_per_pass": n_windows * texts.n_tokens,
        "flops_per_pass": n_windows * step.flops // texts.n_windows,
        "peak_tflops": preset.peak_tflops,
        "not_traced": NOT_TRACED if preset.on_gpu else "",
    }


def plan_text(plan: dict[str, Any]) -> str:
    """Write a plan for a person."""
    parts = ("weights", "lora", "optimizer", "activations", "logits", "peak")
    batch = "{windows_per_batch} windows of {tokens_per_window} tokens a batch".format(**plan)
    precision = f"{'NF4, ' if plan['nf4'] else ''}computed in {plan['dtype']}"
    lines = [
        f"{plan['preset']}: {plan['base']}, {precision}, {batch}",
        *(f"{part:12}{plan[f'{part}_gib']:7.2f} GiB" for part in parts),
        f"This {'fits' if plan['fits'] else 'does not fit'} {plan['memory_gib']:g} GiB.",
        "With the usual loss on every token the logits would take {full_logits_gib:.2f} GiB and the peak "
        "{full_logits_peak_gib:.2f} GiB.".format(**plan),
        "A pass over the data is {tokens_per_pass:,} tokens, {tokens_per_epoch} for every time that an epoch "
        "of sleep is read, and {flops_per_pass:.2e} operations.".format(**plan),
    ]
    if plan["peak_tflops"]:
        minutes = plan["flops_per_pass"] / plan["peak_tflops"] / 6e13
        lines.append(
            f"At the data sheet's {plan['peak_tflops']:g} TFLOP/s: {minutes:.1f} minutes; none gets there."
        )
    return "\n".join([*lines, plan["not_traced"]]).rstrip()


def weights_bytes(model: PeftModel, nf4: bool) -> int:
    """Count the frozen weights of a twin: the linear layers' in NF4 with double quantization, if asked."""
    total = 0
    for name, weight in model.named_parameters():
        if nf4 and name.endswith("base_layer.weight"):
            scales = math.ceil(weight.numel() / _NF4_BLOCK)
            total += weight.numel() // 2 + scales + 4 * math.ceil(scales / _SCALES_BLOCK) + _NF4_TABLES
        elif not weight.requires_grad:
            total += weight.numel() * weight.element_size()
    return total


def dequantization_bytes(model: PeftModel) -> int:
    """Count what an NF4 layer needs to compute: its matrix whole, a copy in another precision, its scales."""
    layers = [weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")]
    largest = max(layers, key=torch.Tensor.numel)
    return 2 * largest.numel() * largest.element_size() + 4 * largest.numel() // _NF4_BLOCK


def optimizer_bytes(numel: int, optimizer: str) -> int:
    """Count AdamW's two states for one tensor; bitsandbytes keeps small ones in float32."""
    if "8bit" in optimizer and numel >= 4096:
        return 2 * (numel + 4 * math.ceil(numel / 256))
    return 8 * numel
