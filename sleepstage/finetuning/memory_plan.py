"""What a fine-tuning will need, before a machine is asked for: memory, tokens and operations.

Weights and optimizer are counted from the base model's architecture. Activations are traced: one real
training step runs on tensors that have a shape but no content. Every tensor that an operation makes is
counted until nothing refers to it any more: PyTorch would free its memory at this moment.
"""

import math
import weakref
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
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM, LlamaConfig

from ..dataset.digits import DIGITS, Digit, PromptSpec, default_digits
from ..dataset.table import consecutive_runs
from ..dataset.windows import covering_starts
from .base_model import quiet_libraries, set_attention
from .settings import LLAMA_3B, OFFLINE_MODEL, PRODUCTS, REPEATED_KEYS, Preset
from .trainer import lora_config

GIB = 2**30

NOT_TRACED = (
    "Not in it, for a CPU cannot trace them: the CUDA context and the kernels' workspaces, some hundred MB."
)


def _llama(vocabulary: int, width: int, inner: int, layers: int, heads: int, kv_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
    )


ARCHITECTURES = {
    LLAMA_3B: _llama(vocabulary=128_256, width=3072, inner=8192, layers=28, heads=24, kv_heads=8),
    OFFLINE_MODEL: _llama(vocabulary=49_152, width=576, inner=1536, layers=30, heads=9, kv_heads=3),
}

DIGITS_A_TOKEN = {LLAMA_3B: 3, OFFLINE_MODEL: 1}  # what their tokenizers make of a line of digits

_NF4_BLOCK, _SCALES_BLOCK = 64, 256  # weights that share a scale of one byte; scales that share a float32
_NF4_TABLES = 4 * (16 + 256 + 1)  # of a matrix: values of four bits, values of its scales, their mean


def training_plan(
    preset: Preset, table: pd.DataFrame | None = None, spec: PromptSpec | None = None, **settings: Any
) -> dict[str, Any]:
    """Compute what fine-tuning a preset's base model needs.

    Parameters
    ----------
    preset : Preset
        Its base must be one of ``ARCHITECTURES``.
    table : pandas.DataFrame, optional
        The training table; without one, sixteen nights of a thousand epochs with the features of an EEG:
        eight people's two nights in Sleep-EDF.
    spec : PromptSpec, optional
        How a night becomes text; without one, the table's default digits in windows as usual.
    **settings
        For :class:`sleepstage.TrainingConfig`, such as ``windows_per_batch`` or ``lora_rank``.

    Returns
    -------
    dict
        ``peak_gib``, ``memory_gib``, ``fits``; the parts ``weights_gib``, ``lora_gib`` (weights and
        gradients), ``optimizer_gib``, ``activations_gib`` and ``logits_gib``; ``full_logits_peak_gib`` and
        ``full_logits_gib``, the same with the usual loss on every token; ``tokens_per_epoch`` (of sleep),
        ``tokens_per_pass`` and ``flops_per_pass`` over the table; and what was traced. Logits are largest at
        another moment than all tensors together, so the parts can sum to more than the peak.
        ``tokens_per_window`` are the longest text's: one with hints.

    Raises
    ------
    ValueError
        If there is no architecture of the base.
    """
    config = preset.training_config(**settings)
    if config.base not in ARCHITECTURES:
        raise ValueError(f"there is no architecture of {config.base!r}, only of {', '.join(ARCHITECTURES)}")
    nights = [1000] * 16 if table is None else [run.stop - run.start for run in consecutive_runs(table)]
    if spec is None:
        digits = DIGITS if table is None else default_digits(table)
        spec = PromptSpec(digits=tuple(Digit(digit.column) for digit in digits))  # levels change no length
    tokens_per_epoch = math.ceil(len(spec.digits) / DIGITS_A_TOKEN[config.base]) + 1
    n_tokens = 1 + spec.window * tokens_per_epoch
    hinted_share = config.hinted_share if spec.reads_hints else 0.0
    n_more = 1 + spec.examples * tokens_per_epoch  # before the window of a text with hints
    longest = n_tokens + n_more * bool(hinted_share)
    n_answers = spec.window - spec.look_ahead
    n_windows = sum(len(covering_starts(n_epochs, spec, stride=n_answers)) for n_epochs in nights)

    model = twin(ARCHITECTURES[config.base], preset, lora_config(config))
    step = trace_step(model, preset, config.windows_per_batch, longest, n_answers)
    full = trace_step(model, preset, config.windows_per_batch, longest)
    tokens_per_pass = round(n_windows * (n_tokens + n_more * hinted_share))
    lora = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    held = {
        "weights": weights_bytes(model, nf4=config.nf4),
        "lora": 8 * sum(lora),  # weights and gradients are float32
        "optimizer": 8 * sum(lora),  # AdamW's two states are float32 as well
    }
    workspace = dequantization_bytes(model) if config.nf4 else 0
    peak = sum(held.values()) + step.peak + workspace
    parts = {
        **held,
        "activations": step.peak - step.logits_at_peak + workspace,
        "logits": step.logits_peak,
        "peak": peak,
        "full_logits": full.logits_peak,
        "full_logits_peak": peak - step.peak + full.peak,
    }
    return {
        "preset": preset.name,
        "base": config.base,
        "nf4": config.nf4,
        "dtype": str(preset.dtype).removeprefix("torch."),
        "gradient_checkpointing": preset.gradient_checkpointing,
        "windows_per_batch": config.windows_per_batch,
        "tokens_per_window": longest,
        "answers_per_window": n_answers,
        **{f"{part}_gib": n_bytes / GIB for part, n_bytes in parts.items()},
        "memory_gib": preset.memory_gib,
        "fits": peak <= preset.memory_gib * GIB,
        "tokens_per_epoch": tokens_per_epoch,
        "tokens_per_pass": tokens_per_pass,
        "flops_per_pass": tokens_per_pass * step.flops // (config.windows_per_batch * longest),
        "peak_tflops": preset.peak_tflops,
        "not_traced": NOT_TRACED if preset.on_gpu else "",
    }


_PLAN_TEXT = """\
{preset}: {base}, {precision}, {windows_per_batch} windows of up to {tokens_per_window} tokens a batch
weights     {weights_gib:7.2f} GiB
lora        {lora_gib:7.2f} GiB
optimizer   {optimizer_gib:7.2f} GiB
activations {activations_gib:7.2f} GiB
logits      {logits_gib:7.2f} GiB
peak        {peak_gib:7.2f} GiB
This {verdict} {memory_gib:g} GiB.
With the usual loss on every token the logits would take {full_logits_gib:.2f} GiB and the peak \
{full_logits_peak_gib:.2f} GiB.
A pass over the data is {tokens_per_pass:,} tokens, {tokens_per_epoch} for every time that an epoch \
of sleep is read, and {flops_per_pass:.2e} operations.
{at_best}{not_traced}"""


def plan_text(plan: dict[str, Any]) -> str:
    """Write a plan for a person."""
    at_best = ""
    if tflops := plan["peak_tflops"]:
        minutes = plan["flops_per_pass"] / tflops / 6e13
        at_best = f"At the data sheet's {tflops:g} TFLOP/s: {minutes:.1f} minutes; none gets there.\n"
    precision = f"{'NF4, ' if plan['nf4'] else ''}computed in {plan['dtype']}"
    verdict = "fits" if plan["fits"] else "does not fit"
    return _PLAN_TEXT.format(precision=precision, verdict=verdict, at_best=at_best, **plan).rstrip()


def weights_bytes(model: PeftModel, nf4: bool) -> int:
    """Count the frozen weights of a twin: the linear layers' in NF4 with double quantization, if asked."""
    total = 0
    for name, weight in model.named_parameters():
        if nf4 and name.endswith("base_layer.weight"):
            scales = math.ceil(weight.numel() / _NF4_BLOCK)
            total += weight.numel() // 2 + scales + 4 * math.ceil(scales / _SCALES_BLOCK) + _NF4_TABLES
        elif not weight.requires_grad:
            total += weight.nbytes
    return total


def dequantization_bytes(model: PeftModel) -> int:
    """Count what an NF4 layer needs to compute: its matrix whole, a copy in another precision, its scales."""
    layers = [weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")]
    largest = max(layers, key=torch.Tensor.numel)
    return 2 * largest.nbytes + 4 * largest.numel() // _NF4_BLOCK


def twin(architecture: LlamaConfig, preset: Preset, lora: LoraConfig) -> PeftModel:
    """Build a copy of the model, its tensors without content, and not quantized: NF4 cannot be traced."""
    with quiet_libraries():
        with torch.device("meta"):
            # With shared keys, PyTorch 2.11 cannot count the operations of its attention.
            attention = PRODUCTS if preset.attention == PRODUCTS else REPEATED_KEYS
            model = AutoModelForCausalLM.from_config(
                architecture, dtype=preset.dtype, attn_implementation=attention
            )
            model.config.use_cache = False
            model = get_peft_model(model, lora)  # keeps its matrices in float32
        # Autocast passes over the meta device, so the tensors say that they are on a CPU.
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu").tie_weights()
        prepare_for_training(model, preset)
    # Causal attention needs as much memory, but a trace of it makes a mask as well.
    set_attention(model, bidirectional=True)
    return model


def prepare_for_training(model: PeftModel, preset: Preset) -> None:
    """Do what trl's trainer does to a model before its first step."""
    model.train()
    if preset.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, beside those a model holds, as long as they live.

    Attributes
    ----------
    peak : int
        The most that those tensors took together.
    logits_at_peak, logits_peak : int
        Bytes of the logits (the tensors as wide as the vocabulary): at the moment of the peak, and at most.
    flops : int
        Operations, those of recomputed layers included.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.vocabulary = model.config.vocab_size
        self.flops = self.live = self.peak = self.logits = self.logits_at_peak = self.logits_peak = 0
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        held = [*model.parameters(), *model.buffers(), *gradients]
        self.known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._count(result)
        # PyTorch's formulas know the fused attention kernel by its name on CUDA only.
        name = function._overloadpacket.__name__.replace("_for_cpu", "")
        if count_flops := flop_registry.get(getattr(torch.ops.aten, name, None)):
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


def trace_step(
    model: PeftModel, preset: Preset, n_windows: int, n_tokens: int, n_answers: int | None = None
) -> LiveBytes:
    """Take a training step on a twin, and count what it makes; see :func:`take_step`."""
    without_content: Any = next(model.parameters())
    # The CPU's flash kernel keeps what those of CUDA keep: no scores, only their sums.
    with without_content.fake_mode, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for weight in model.parameters():
            if weight.requires_grad:  # as in any batch of a step but its first
                weight.grad = torch.zeros_like(weight)
        live = LiveBytes(model)
        with disable_input_dtype_casting(model), live:  # as in peft's NF4 layers under autocast
            take_step(model, preset.dtype, n_windows, n_tokens, n_answers)
    return live


def take_step(
    model: Any, dtype: torch.dtype, n_windows: int, n_tokens: int, n_answers: int | None = None
) -> None:
    """Read one batch and go back through it, with ``AnswerTrainer``'s loss on a number of answers a window.

    Without that number, the loss is the usual one: on every token, over the whole vocabulary.
    """
    input_ids = torch.zeros(n_windows, n_tokens, dtype=torch.long)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outputs = model(input_ids=input_ids, logits_to_keep=torch.arange(n_answers or n_tokens))
    logits = outputs.logits.float()  # accelerate makes a model's outputs float32
    if n_answers:
        logits = logits[..., :5].contiguous()  # the five label words'
    logits = logits.flatten(0, 1)
    cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
