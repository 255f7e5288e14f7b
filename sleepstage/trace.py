"""A training step traced on tensors without content: what it holds at most, and how much it computes.

Every tensor that an operation makes is counted from then until nobody holds it, as PyTorch's allocator would.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

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

from .base_model import quiet_libraries, set_reading
from .presets import Preset


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
    set_reading(model, two_way=True)  # reading one way needs as much, but on such tensors gets a mask as well
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
