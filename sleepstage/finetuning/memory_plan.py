"""What a fine-tuning will need, before a machine is asked for: memory, tokens and operations.

Weights and optimizer are counted from the base model's configuration. Activations are traced: one real
training step runs on tensors that have a shape but no content, and every tensor that it makes is counted
while it lives.


A training step traced on tensors without content: what it holds at most, and how much it computes.

Every tensor that an operation makes is counted from then until nobody holds it, as PyTorch's allocator would.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, LlamaConfig

from ..dataset.digits import COHORT_COLUMNS, EEG_COLUMNS, Digit, PromptSpec, default_digits
from ..dataset.table import consecutive_runs
from ..dataset.windows import covering_starts
from .base_model import quiet_libraries, set_attention
from .settings import LLAMA_3B, OFFLINE_MODEL, Preset
from .trainer import lora_config

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
    runs = (
        [EPOCHS_A_NIGHT] * NIGHTS
        if table is None
        else [run.stop - run.start for run in consecutive_runs(table)]
    )
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


@dataclass(frozen=True)
class Texts:
    """The shape of a batch: windows, tokens in each, and answers asked of each."""

    n_windows: int
    n_tokens: int
    n_answers: int


@dataclass(frozen=True)
class Step:
    """What one batch needs, forward and backward, beside weights, gradients and optimizer.

    Attributes
    ----------
    peak_bytes : int
        The most that the tensors it made took together.
    logits_at_peak_bytes, logits_bytes : int
        What those as wide as the vocabulary took then, and at most.
    flops : int
        Operations, those of recomputed layers included.
    """

    peak_bytes: int
    logits_at_peak_bytes: int
    logits_bytes: int
    flops: int


def twin(architecture: LlamaConfig, preset: Preset, lora: LoraConfig) -> PeftModel:
    """Build the model that is tuned, without its content and unquantized: NF4 layers cannot be traced."""
    with quiet_libraries():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                architecture, dtype=preset.dtype, attn_implementation=preset.attention
            )
            model.config.use_cache = False
            model = get_peft_model(model, lora)  # keeps its matrices in float32
        prepare_for_training(model, preset)
    set_attention(
        model, bidirectional=True
    )  # reading one way needs as much, but on such tensors gets a mask as well
    return model


def prepare_for_training(model: PeftModel, preset: Preset) -> None:
    """Do what trl's trainer does to a model before its first step."""
    model.train()
    if preset.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()


def trace_step(model: PeftModel, preset: Preset, texts: Texts, every_token: bool = False) -> Step:
    """Take a training step on a twin with tensors that have no content, and count what it makes.

    As in any batch of a step but its first, the adapter's gradients are there already.
    """
    # Which kernel CUDA takes is not known here; the plain one keeps the scores and so is the upper bound.
    kernels = [SDPBackend.MATH] if preset.on_gpu else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with FakeTensorMode(), sdpa_kernel(kernels):
        _give_fake_tensors(model)
        live = LiveBytes(model)
        with disable_input_dtype_casting(model), live:  # as in peft's NF4 layers under autocast
            take_step(model, preset.dtype, texts, every_token)
    return Step(live.peak, live.logits_at_peak, live.logits_peak, live.flops)


def take_step(model: Any, dtype: torch.dtype, texts: Texts, every_token: bool = False) -> None:
    """Read one batch and go back through it, as ``AnswerTrainer`` does, or with a loss on every token."""
    input_ids = torch.zeros(texts.n_windows, texts.n_tokens, dtype=torch.long)
    n_asked = texts.n_tokens if every_token else texts.n_answers
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outputs = model(input_ids=input_ids, logits_to_keep=torch.arange(n_asked))
    logits = outputs.logits.float()  # accelerate makes a model's outputs float32
    if not every_token:
        logits = logits[..., :5].contiguous()  # the five label words'
    cross_entropy(logits.flatten(0, 1), torch.zeros(texts.n_windows * n_asked, dtype=torch.long)).backward()


def _give_fake_tensors(model: torch.nn.Module) -> None:
    """Put what a model holds on a CPU that keeps no content; autocast passes over the meta device."""
    made: dict[torch.Tensor, torch.Tensor] = {}  # tied weights stay one
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor not in made:
                    made[tensor] = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, torch.nn.Parameter):
                        made[tensor] = torch.nn.Parameter(made[tensor], tensor.requires_grad)
                held[name] = made.get(tensor)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _attention_flops(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(gradient, query, key, value, *_, **__) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


FLOPS = {  # PyTorch's formulas, which know this kernel for CUDA only
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, beside those a model holds, as long as they live."""

    def __init__(self, model: Any):
        super().__init__()
        self.vocabulary = model.config.vocab_size
        self.flops = self.live = self.peak = self.logits = self.logits_at_peak = self.logits_peak = 0
        held = [*model.parameters(), *model.buffers()]
        held += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self.known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._count(result)
        count_flops = FLOPS.get(function._overloadpacket)
        if count_flops is not None:
            self.flops += count_flops(*args, **(kwargs or {}), out_val=results)
        return results

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        n_bytes = storage.nbytes()
        logits = n_bytes if tensor.shape and tensor.shape[-1] == self.vocabulary else 0
        self.known.add(storage._cdata)
        self._add(n_bytes, logits)
        weakref.finalize(storage, self._forget, storage._cdata, n_bytes, logits)

    def _forget(self, key: int, n_bytes: int, logits: int) -> None:
        self.known.discard(key)
        self._add(-n_bytes, -logits)

    def _add(self, n_bytes: int, logits: int) -> None:
        self.live += n_bytes
        self.logits += logits
        self.logits_peak = max(self.logits_peak, self.logits)
        if self.live > self.peak:
            self.peak, self.logits_at_peak = self.live, self.logits
