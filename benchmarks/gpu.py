"""Check fine-tuning and staging on a CUDA card: Llama-3.2-3B's shape, as on a T4, then as on a newer card.

    python benchmarks/gpu.py           # four minutes on a fast card; needs the network for a tokenizer
    python benchmarks/gpu.py --tiny    # the same calls on a CPU, with a tiny model and the offline tokenizer

The weights are random, so no model is downloaded, and the losses mean nothing. Speed, memory and number
formats are those of the real model. A newer card is made to do what a T4 does: float16, PyTorch's attention
without its newer kernels, 14.7 GiB of memory. Only its speed is its own.

Each check prints a line of JSON. A check that fails says so, and the next one runs. At the end comes a
table to paste into an issue. With ``--out`` both are written to a folder.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)

import sleepstage as ss
from sleepstage.finetuning import base_model, memory_plan, settings, trainer
from sleepstage.finetuning.settings import AMPERE, CPU, LLAMA_3B, REPEATED_KEYS, T4, Preset
from sleepstage.staging import stager

CUDA = torch.cuda.is_available()
DEVICE = "cuda:0" if CUDA else "cpu"
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "numpy",
    "pandas",
)
N_EPOCHS = 400  # of the table, to stage: enough for a steady time


class Checks:
    """Runs checks one after the other, and keeps what they found."""

    def __init__(self, out: Path | None):
        self.out, self.started, self.found = out, time.monotonic(), list[dict[str, Any]]()

    def say(self, check: str, **facts: Any) -> None:
        """Print one line of JSON, and keep it."""
        self.found.append({"check": check, "at_s": round(time.monotonic() - self.started), **facts})
        self._write(json.dumps(self.found[-1], default=str), "checks.jsonl")

    def run(self, check: str, function: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> None:
        """Call a function that gives facts; a failure is a fact too."""
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        try:
            facts = {"result": "ok", **function(*args, **kwargs)}
        except Exception as error:  # whatever it is, the other checks still tell something
            where = traceback.extract_tb(error.__traceback__)[-4:]
            facts = {
                "result": "FAILED",
                "error": f"{type(error).__name__}: {error}"[:400],
                "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in where],
            }
        self.say(check, took_s=round(time.monotonic() - started, 1), **facts)
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()

    def summary(self) -> bool:
        """Print the table, and say whether all went well."""
        plans = next((facts["plans"] for facts in self.found if "plans" in facts), {})
        columns = (
            "result",
            "tokens",
            "s_a_step",
            "tokens_a_s",
            "peak_gib",
            "plan_gib",
            "overflowed",
            "took_s",
        )
        lines = [" | ".join(("check", *columns)), " | ".join(["---"] * (len(columns) + 1))]
        for facts in self.found:
            facts = {**facts, "plan_gib": plans.get(facts["check"], "")}
            lines.append(" | ".join([facts["check"], *(str(facts.get(name, "")) for name in columns)]))
        self._write("\n".join(f"| {line} |" for line in lines), "summary.md")
        return all(facts["result"] == "ok" for facts in self.found)

    def _write(self, text: str, name: str) -> None:
        print(text, flush=True)
        if self.out:
            with (self.out / name).open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def use(preset: Preset) -> None:
    """Make the package take this preset for the machine's own, and the card as small as the preset's."""
    for module in (settings, base_model, trainer, stager):
        module.detect = lambda: preset  # type: ignore[attr-defined]
    if CUDA:
        newer = preset.dtype is not torch.float16  # a T4 has neither kernel
        torch.backends.cuda.enable_flash_sdp(newer)
        torch.backends.cuda.enable_cudnn_sdp(newer)
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, preset.memory_gib * 2**30 / whole))


def machine() -> dict[str, Any]:
    """Say what this is."""
    facts = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if CUDA:
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "capability": f"{card.major}.{card.minor}", "cuda": torch.version.cuda}
        facts["memory_gib"] = round(card.total_memory / 2**30, 1)
    return facts


def make_base(base: Path, tokenizer: Any, architecture: LlamaConfig) -> dict[str, Any]:
    """Write a base model as a hub has it: NF4 with double quantization, everything else in bfloat16."""
    with tempfile.TemporaryDirectory(dir=base.parent) as plain:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(DEVICE):
            model = LlamaForCausalLM(architecture)
        torch.set_default_dtype(torch.float32)
        model.save_pretrained(plain, max_shard_size="2GB")  # a part at a time lies in the host's memory
        del model
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        quantized = AutoModelForCausalLM.from_pretrained(
            plain, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": DEVICE}
        )
    quantized.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return {"gb_on_disk": _gigabytes(base)}


def dtypes(base: Path, preset: Preset) -> dict[str, Any]:
    """Load the base, and say in which precision its parts are."""
    model = ss.load_base(base)
    linear = model.model.layers[0].mlp.up_proj
    found = {
        "norm": model.model.norm.weight.dtype,
        "embedding": model.model.embed_tokens.weight.dtype,
        "head": model.lm_head.weight.dtype,
        "computes_in": linear.compute_dtype,
        "unpacks_to": linear.weight.quant_state.dtype,
    }
    if wrong := {part: str(dtype) for part, dtype in found.items() if dtype is not preset.dtype}:
        raise ValueError(f"expected {preset.dtype} in every part, got {wrong}")
    return {"dtype": preset.dtype, "weights_gib": round(model.get_memory_footprint() / 2**30, 2)}


def kernels(base: Path, preset: Preset, n_tokens: int) -> dict[str, Any]:
    """Say which attention kernel the base takes, per way of reading and way of sharing keys."""
    from torch.profiler import ProfilerActivity, profile

    found = {}
    input_ids = torch.zeros(2, n_tokens, dtype=torch.long, device=DEVICE)
    for attention in ("sdpa", REPEATED_KEYS):
        use(replace(preset, attention=attention))
        model = ss.load_base(base)
        model.model.layers = model.model.layers[:1]  # the others do the same
        for way in ("causal", "bidirectional"):
            base_model.set_attention(model, way == "bidirectional")
            with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as events:
                model(input_ids=input_ids)
            names = {event.key for event in events.key_averages() if "attention" in event.key}
            found[f"{way}, {attention}"] = sorted(name.removeprefix("aten::") for name in names)
    return {"kernels": found}


class Meter(TrainerCallback):
    """Times steps, and counts those whose gradients were not finite; the scaler skips these."""

    def __init__(self) -> None:
        self.seconds, self.overflowed = list[float](), list[bool]()

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        self.overflowed.append(not all(bool(gradient.isfinite().all()) for gradient in gradients))

    def on_step_end(self, args, state, control, **kwargs):
        if CUDA:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.begun)


def steps(
    work: Path,
    table: pd.DataFrame,
    spec: ss.PromptSpec,
    preset: Preset,
    base: Path,
    n_steps: int = 4,
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train for some steps; with ``resume``, once more from the middle, and compare."""
    use(preset)
    config = preset.training_config(
        base=str(base),
        n_steps=n_steps,
        checkpoint_steps=n_steps // 2,
        warmup_steps=2,
        **options,
    )
    meter, residual = Meter(), set[str]()
    run = trainer.build_trainer(table, spec, config, work)
    run.add_callback(meter)
    last_layer = run.model.get_base_model().model.layers[-1]
    last_layer.register_forward_hook(
        lambda module, given, out: residual.add(str((out[0] if isinstance(out, tuple) else out).dtype))
    )
    run.train()
    lengths = [len(text) for text in run.train_dataset["input_ids"]]
    per_step = len(lengths) // n_steps
    scaler = run.accelerator.scaler
    facts = {
        "tokens": f"{per_step} × up to {max(lengths)}",
        "s_a_step": round(sorted(meter.seconds)[n_steps // 2], 3),
        "tokens_a_s": round(sum(lengths[per_step:]) / sum(meter.seconds[1:])),  # the first step warms up
        "peak_gib": round(ss.peak_memory_gib(), 2),
        "overflowed": sum(meter.overflowed),
        "skipped": run.state.global_step - run.lr_scheduler.last_epoch,
        "learning_rate": run.args.learning_rate,
        "steps_s": [round(seconds, 3) for seconds in meter.seconds],
        "losses": _losses(run),
        "scale": scaler.get_scale() if scaler else None,
        "residual": sorted(residual),
    }
    if CUDA:
        facts["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    if resume:
        weights = _trained(run)
        del run, last_layer
        gc.collect()
        again = trainer.build_trainer(table, spec, config, work)
        again.train(resume_from_checkpoint=str(work / f"checkpoint-{n_steps // 2}"))
        facts["resumed_losses"] = _losses(again)
        facts["resumed_differs_by"] = max(
            (weights[name] - weight).abs().max().item() for name, weight in _trained(again).items()
        )
    shutil.rmtree(work, ignore_errors=True)
    return facts


def finetune_and_stage(
    scratch: Path, table: pd.DataFrame, spec: ss.PromptSpec, preset: Preset, base: Path
) -> dict[str, Any]:
    """Fine-tune, stage, stage with fewer windows at once, dequantized, and merged."""
    use(preset)
    config = preset.training_config(base=str(base), n_steps=4, warmup_steps=1)
    curve = ss.finetune(table, spec, config, scratch / "adapter")
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    night, facts = table.head(N_EPOCHS), {"losses": curve["loss"].round(3).tolist()}

    def stage(name: str, stager: ss.Stager, **options: Any) -> pd.DataFrame:
        started = time.perf_counter()
        proba = stager.predict_proba(night, with_prior=False, **options)
        facts[f"epochs_a_s_{name}"] = round(len(night) / (time.perf_counter() - started))
        if not proba.notna().all(axis=None):
            raise ValueError(f"{name}: {proba.isna().any(axis=1).sum()} of {len(night)} epochs got no stage")
        return proba

    stager = ss.Stager.from_pretrained(scratch / "adapter")
    stage("first", stager)
    proba = stage("nf4", stager)
    facts["peak_gib"] = round(ss.peak_memory_gib(), 2)
    few = stage("nf4_2_windows", stager, windows_per_batch=2)
    facts["differs_by_2_windows"] = _difference(proba, few)
    del stager
    plain = stage("dequantized", ss.Stager.from_pretrained(scratch / "adapter", nf4=False))
    facts["differs_by_dequantized"] = _difference(proba, plain)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    ss.merge(scratch / "adapter", scratch / "merged")
    facts["merge_peak_gib"] = round(ss.peak_memory_gib(), 2)
    facts["merged_gb_on_disk"] = _gigabytes(scratch / "merged")
    merged = stage("merged", ss.Stager.from_pretrained(scratch / "merged"))
    facts["differs_merged_from_dequantized"] = _difference(plain, merged)
    return facts


def plans(table: pd.DataFrame, base: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give the peak that the memory plan expects in each case; it traces a step on the CPU."""
    peaks = {}
    for name, case in cases.items():
        options = {key: case[key] for key in ("windows_per_batch",) if key in case}
        plan = memory_plan.training_plan(case["preset"], table, case["spec"], base=str(base), **options)
        peaks[name] = round(plan["peak_gib"], 2)
    return {"plans": peaks}


def _losses(run: Any) -> list[float]:
    return [round(entry["loss"], 4) for entry in run.state.log_history if "loss" in entry]


def _trained(run: Any) -> dict[str, torch.Tensor]:
    return {
        name: weight.detach().clone() for name, weight in run.model.named_parameters() if weight.requires_grad
    }


def _difference(one: pd.DataFrame, other: pd.DataFrame) -> float:
    return round(float((one - other).abs().max(axis=None)), 4)


def _gigabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.iterdir()) / 1e9, 3)


def main() -> None:
    """Run every check on this machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU too: two minutes")
    parser.add_argument(
        "--tokenizer", help="a folder or a name on the hub; by default Llama-3.2's from the hub"
    )
    parser.add_argument(
        "--table", type=Path, help="a feature table of two people; by default the shipped night twice"
    )
    parser.add_argument("--out", type=Path, help="a folder for checks.jsonl and summary.md")
    parser.add_argument(
        "--no-plan", action="store_true", help="do not trace the memory plan, which needs no GPU"
    )
    options = parser.parse_args()
    if not (CUDA or options.tiny):
        sys.exit("there is no CUDA card here; --tiny makes the same calls on a CPU")
    logging.disable(logging.WARNING)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        ss.prepare()
    checks = Checks(options.out)
    checks.run("machine", machine)

    if options.table:
        table = ss.load_table(options.table)
    else:
        night = ss.extract_features(ss.load_demo())
        table = pd.concat([night, night.rename(index={0: 1}, level="subject")])
    tokenizer = base_model.load_tokenizer(
        options.tokenizer or (ss.OFFLINE_MODEL if options.tiny else LLAMA_3B)
    )
    spec = ss.PromptSpec.fit(table, ss.default_digits(table))
    causal = replace(spec, window=40, look_ahead=6, bidirectional=False)
    architecture = memory_plan.ARCHITECTURES[LLAMA_3B]
    if options.tiny:
        architecture = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    as_t4 = replace(
        CPU, attention=T4.attention, optimizer=T4.optimizer, gradient_checkpointing=T4.gradient_checkpointing
    )
    old, new, many = (T4, AMPERE, 16) if CUDA else (as_t4, CPU, 3)
    cases: dict[str, dict[str, Any]] = {
        "causal, resumed": {"spec": causal, "preset": old, "n_steps": 8, "resume": True},
        "bidirectional, resumed": {"spec": spec, "preset": old, "n_steps": 8, "resume": True},
        "bidirectional, shared keys": {"spec": spec, "preset": replace(old, attention="sdpa")},
        f"{many} windows": {"spec": spec, "preset": old, "windows_per_batch": many},
        "ampere": {"spec": spec, "preset": new},
    }
    if ss.detect() is T4:
        del cases["ampere"]  # such a card emulates bfloat16: this would take minutes and tell nothing
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        base = scratch / "base"
        memory_plan.ARCHITECTURES[str(base)] = architecture
        memory_plan.DIGITS_A_TOKEN[str(base)] = (
            3 if len(tokenizer("123", add_special_tokens=False).input_ids) == 1 else 1
        )
        checks.run("base in NF4", make_base, base, tokenizer, architecture)
        # What no card has finished yet comes first: a card's time may be short.
        checks.run("finetune, stage, merge", finetune_and_stage, scratch, table, spec, old, base)
        use(old)
        checks.run("number formats", dtypes, base, old)
        checks.run("attention", kernels, base, old, n_tokens=512)
        for name, case in cases.items():
            checks.run(name, steps, scratch / "work", table, base=base, **case)
        if not options.no_plan:
            checks.run("plan", plans, table, base, cases)
    sys.exit(not checks.summary())


if __name__ == "__main__":
    main()
