"""Put a plan beside a measurement: one real training step of Llama-3.2-3B's architecture, on this CPU.

    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/plan.py              # all 28 layers: some 4 GiB
    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/plan.py --layers 4   # fewer, to try it out

The weights are random, quantized to NF4 a layer at a time. The step computes in float32, as a CPU does, with
gradient checkpointing, and the plan is made for the same. The measurement is the process's own peak resident
memory, less what it had before the model was made. The variable has glibc give freed memory back; without it
the measurement holds, by up to 1 GiB, what nobody uses.
"""

from __future__ import annotations

import argparse
import copy
import resource
import sys
from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from sleepstage.finetuning.base_model import quiet_libraries
from sleepstage.finetuning.memory_plan import (
    ARCHITECTURES,
    GIB,
    dequantization_bytes,
    prepare_for_training,
    take_step,
    trace_step,
    twin,
    weights_bytes,
)
from sleepstage.finetuning.settings import CPU, LLAMA_3B, T4
from sleepstage.finetuning.trainer import lora_config


def random_nf4_model(architecture: LlamaConfig) -> torch.nn.Module:
    """Build a model with random weights that is never whole in any precision but NF4."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    model.config.use_cache = False
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(block, name, _random_nf4(linear.in_features, linear.out_features))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta and module is not model.lm_head:
                content = torch.randn(parameter.shape).mul_(architecture.initializer_range)
                setattr(module, name, torch.nn.Parameter(content, requires_grad=False))
    model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(architecture)
    model.is_loaded_in_4bit = True  # what peft asks
    return model


def _random_nf4(n_in: int, n_out: int) -> bnb.nn.Linear4bit:
    with torch.device("meta"):
        linear = bnb.nn.Linear4bit(n_in, n_out, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    weight = torch.randn(n_out, n_in) * n_in**-0.5
    linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to("cpu")
    return linear


def peak_bytes() -> int:
    """The most memory that this process has ever had; macOS counts bytes, Linux kibibytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int:
    """What it has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=28, help="of the 28 (default: all)")
    parser.add_argument("--windows", type=int, default=T4.windows_per_batch, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=281, help="of a window (default: %(default)s)")
    options = parser.parse_args()

    architecture = copy.deepcopy(ARCHITECTURES[LLAMA_3B])
    architecture.num_hidden_layers = options.layers
    preset = replace(CPU, gradient_checkpointing=True)
    texts = (options.windows, options.tokens, 34)  # answers
    lora = lora_config(T4.training_config())

    unquantized = twin(architecture, preset, lora)
    traced = trace_step(unquantized, preset, *texts)
    adapter = [p.numel() for p in unquantized.parameters() if p.requires_grad]
    planned = {
        "weights": weights_bytes(unquantized, nf4=True),
        "adapter": 8 * sum(adapter),
        "optimizer": 8 * sum(adapter),  # AdamW's states
        "step": traced.peak + dequantization_bytes(unquantized),
    }
    del unquantized

    before = resident_bytes()
    with quiet_libraries():
        model = get_peft_model(random_nf4_model(architecture), lora)
        prepare_for_training(model, preset)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, fused=True)
    for _ in range(2):  # in the second, gradients and the optimizer's states are there from the beginning
        take_step(model, preset.dtype, *texts)
        adamw.step()
    measured = peak_bytes() - before

    print(f"{options.layers} layers, {options.windows} windows of {options.tokens} tokens")
    for name, n_bytes in planned.items():
        print(f"{name:10} {n_bytes / GIB:6.2f} GiB planned")
    total = sum(planned.values())
    print(
        f"{'peak':10} {total / GIB:6.2f} GiB planned, {measured / GIB:.2f} GiB measured "
        f"({measured / total - 1:+.0%})"
    )


if __name__ == "__main__":
    main()
