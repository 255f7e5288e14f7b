"""What depends on the machine: which model it can tune, in which precision, with which optimizer.

Nothing else in the package asks what the machine is. A preset is chosen by :func:`detect`, and the code is
the same for all of them.
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import psutil
import torch
from accelerate import PartialState

from ..files import check_number
from ..stages import STAGES

OFFLINE_MODEL = "smollm2-135m-instruct"
"""The base model that runs on any computer and without a hub, once :func:`prepare` has fetched it."""

LLAMA_3B = "unsloth/Llama-3.2-3B-Instruct-bnb-4bit"  # in NF4 already, and not gated as Meta's own is

# Two kinds of attention that sleepstage.finetuning.base_model gives transformers.
REPEATED_KEYS = "sdpa_repeated_keys"
PRODUCTS = "two_products"


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run, each with its reason.

    A step learns from ``windows_per_batch × batches_per_step`` windows in every process. Training ends after
    ``n_steps``, or after ``max_minutes`` if that comes first; the learning rate falls to zero towards
    whichever is nearer.
    """

    start_from: str | None = None  # an adapter to go on from, instead of new low-rank matrices
    base: str = OFFLINE_MODEL  # runs anywhere without a hub
    nf4: bool = True  # the Q of QLoRA: a third of the weights' memory; a CPU is a tenth slower
    lora_rank: int = 16  # 4.9 M trainable parameters beside 135 M frozen ones
    lora_alpha: int = 32  # the usual twice the rank
    learning_rate: float | None = None  # by the base model's width, learning_rate_for
    warmup_steps: int = 10  # the first hundred losses tell whether it was enough
    n_steps: int = 100  # a first result; a cohort takes thousands
    max_minutes: float | None = None  # no limit
    windows_per_batch: int = 1  # each window of 521 tokens takes about 0.9 GB of activations
    batches_per_step: int = 4  # accumulated, so memory stays that of one batch
    class_weights: tuple[float, ...] = (1.0, 2.0, 1.0, 1.2, 1.4)  # N1 is rare, and macro-F1 counts it fully
    teacher_share: float = 0.8  # of the loss, if there is a teacher; the expert's stages have the rest
    margin_epochs: int = 0  # 60 where nights were cut around sleep by the expert's stages
    blur: float = 0.0  # share of digits moved by a level, so that people are not learned by heart
    partial_share: float = 0.0  # share of nights shown in part, 2 to 6 hours: recordings may begin late
    hinted_share: float = 0.5  # share of nights with hints: one model that reads them, and needs none
    checkpoint_steps: int = 50  # some minutes: what is lost when the machine is taken away
    seed: int = 0  # of window borders and of the first low-rank matrices

    def __post_init__(self) -> None:
        """Refuse a setting that would only fail, or train nothing, after the model is loaded."""
        for name in ("base", "start_from"):  # a Path may be given, and train.json keeps text
            object.__setattr__(self, name, getattr(self, name) and str(getattr(self, name)))
        for setting in fields(self):
            value, span = getattr(self, setting.name), _RANGES.get(setting.name)
            if span and not (value is None and setting.default is None):
                low, high = (*span, math.inf)[:2]
                check_number(value, setting.name, low, high, whole=isinstance(setting.default, int))
        if len(self.class_weights) != len(STAGES):
            raise ValueError(
                f"got {len(self.class_weights)} class weights, expected one for each of {STAGES}"
            )
        for name, weight in zip(STAGES, self.class_weights, strict=True):
            check_number(weight, f"the class weight of {name}", 1e-3, 1e3)


_RANGES: dict[str, tuple[float, ...]] = {
    "lora_rank": (1, 512),  # a small model's width; the memory grows with it
    "lora_alpha": (1, 4096),
    "learning_rate": (1e-9,),
    "warmup_steps": (0, 100_000),
    "n_steps": (1, 1_000_000),
    "max_minutes": (1e-6,),
    "windows_per_batch": (1, 1024),
    "batches_per_step": (1, 1024),
    "teacher_share": (0, 1),
    "margin_epochs": (0, 480),  # four hours: with more, little of a night is left
    "blur": (0, 1),
    "partial_share": (0, 1),
    "hinted_share": (0, 1),
    "checkpoint_steps": (1, 1_000_000),
    "seed": (0, 2**32 - 1),  # numpy's generators take no other
}
"""What a setting may be: its least value, and its greatest if there is one."""


def learning_rate_for(width: int) -> float:
    """Give a learning rate for low-rank matrices beside a base model's layers.

    At most 1e-3: with SmolLM2, 576 wide, and few windows a step, higher became unstable when it read in both
    directions. From left to right, notebook 4 takes 1.5e-3; with 32 windows a step, the adapter that ships
    had 2.5e-3. With the width it falls as in a published rule for LLaMA (Thinking Machines, tinker-cookbook,
    2025): 3.6e-4 for Llama-3.2-3B, 3,072 wide.

    Examples
    --------
    >>> [round(learning_rate_for(width), 5) for width in (576, 2048, 3072, 4096)]
    [0.001, 0.00049, 0.00036, 0.00029]
    """
    return min(1e-3, 5e-4 * (2000 / width) ** 0.781)


MANY_PEOPLE: dict[str, Any] = {
    "n_steps": 2000,
    "warmup_steps": 30,  # after 10 steps of warm-up, training on many people became unstable
    "class_weights": (1.0, 1.5, 1.0, 1.2, 1.2),
    "blur": 0.2,
    "partial_share": 0.35,
}
"""What ``python -m sleepstage train`` sets for many people, as for the adapter that ships, which took fewer
steps of more windows. The defaults are for a lesson on one night."""


@dataclass(frozen=True)
class Preset:
    """The settings that a kind of machine decides.

    Attributes
    ----------
    name : str
    base : str
        The base model to tune, unless another is asked for.
    on_gpu : bool
    dtype : torch.dtype
        The precision to compute in.
    optimizer : str
        transformers' name for it.
    gradient_checkpointing : bool
        Keep only the input of each layer, and compute the rest again in the backward pass.
    windows_per_batch, batches_per_step : int
        Windows read at once, and batches before the weights are changed.
    memory_gib : float
        What the machine has for weights, activations and everything else.
    peak_tflops : float or None
        The maker's figure for matrix products in ``dtype``, in 10¹² operations a second.
    attention : str
        transformers' name for the attention kernel.
    float32_products : str
        PyTorch's name for the precision of products of float32 matrices.
    recipe : dict
        Further settings of :class:`TrainingConfig`.
    """

    name: str
    base: str
    on_gpu: bool
    dtype: torch.dtype
    optimizer: str
    gradient_checkpointing: bool
    windows_per_batch: int
    batches_per_step: int
    memory_gib: float
    peak_tflops: float | None
    attention: str = "sdpa"  # PyTorch's own, which runs everywhere
    float32_products: str = "highest"  # what is float32 is multiplied as float32
    recipe: dict[str, Any] = field(default_factory=dict)  # nothing: the defaults are a lesson on one night

    def __str__(self) -> str:
        checkpointing = ", gradient checkpointing" * self.gradient_checkpointing
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')}, {self.optimizer}{checkpointing})"

    def training_config(self, **settings: Any) -> TrainingConfig:
        """Give a training configuration for this machine; any setting can be given instead.

        Processes that train together share a step's batches, so that its number of windows stays the same.
        """
        batches = max(1, self.batches_per_step // launch().num_processes)
        own = {"base": self.base, "windows_per_batch": self.windows_per_batch, "batches_per_step": batches}
        return TrainingConfig(**{**own, **self.recipe, **settings})

    @contextmanager
    def products(self) -> Iterator[None]:
        """Multiply matrices as the preset says, in this block only: the setting is the whole process's."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.float32_products)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def loading_settings(self) -> dict[str, Any]:
        """Give the arguments for ``from_pretrained``; each of several processes uses a GPU of its own."""
        device = f"cuda:{PartialState().local_process_index}" if self.on_gpu else "cpu"
        return {"dtype": self.dtype, "device_map": {"": device}, "attn_implementation": self.attention}

    def trainer_settings(self) -> dict[str, Any]:
        """Give the arguments for trl's ``SFTConfig``. Without them it uses bfloat16, even on a T4."""
        return {
            "use_cpu": not self.on_gpu,
            "fp16": self.dtype is torch.float16,
            "bf16": self.dtype is torch.bfloat16,
            "optim": self.optimizer,
            "gradient_checkpointing": self.gradient_checkpointing,
            "dataloader_pin_memory": self.on_gpu,
        }


CPU = Preset(
    name="cpu",
    base=OFFLINE_MODEL,  # 135 million parameters: a lesson takes minutes, and no hub is needed
    on_gpu=False,
    dtype=torch.float32,  # few CPUs compute faster in half precision
    optimizer="adamw_torch_fused",  # PyTorch's; the adapter's states are 40 MB
    gradient_checkpointing=False,  # it would cost half more operations, and a CPU is short of time
    windows_per_batch=2,  # hardly faster with more, and each takes up to 0.9 GB
    batches_per_step=2,  # four windows a step, as everywhere
    memory_gib=12.7,  # a free Colab machine; most laptops have more
    peak_tflops=None,  # CPUs differ by a factor of ten
    float32_products="medium",  # oneDNN's and not MKL's: float32 as well, and twice as fast on AMD's
)

CPU_BFLOAT16 = replace(
    CPU,
    name="cpu-bfloat16",
    dtype=torch.bfloat16,  # the processor multiplies it (AVX-512 BF16, AMX), twice as fast as float32
    attention=PRODUCTS,  # in bfloat16, PyTorch's kernel takes nearly twice as long
)

T4 = Preset(
    name="t4",
    base=LLAMA_3B,
    on_gpu=True,
    dtype=torch.float16,  # compute capability 7.5 has no bfloat16: it is emulated, and slow
    optimizer="adamw_torch",  # the fused one hides skipped steps; in 8 bits, 0.7 GiB stay behind (GPUS.md)
    gradient_checkpointing=True,  # half more operations for a tenth of the activations
    windows_per_batch=4,  # enough to keep the card busy
    batches_per_step=1,
    memory_gib=14.7,  # of its 16 GB, what a program gets to see
    peak_tflops=65.0,  # NVIDIA's data sheet, float16 with tensor cores
    attention=REPEATED_KEYS,  # shared keys would take the slowest kernel (GPUS.md)
    recipe={
        **MANY_PEOPLE,
        "n_steps": 1100,  # 352,000 epochs read: the cohort that ships nine times
    },
)

AMPERE = replace(
    T4,
    name="ampere",
    dtype=torch.bfloat16,  # from compute capability 8: float32's range, so that no loss has to be scaled
    optimizer="adamw_torch_fused",  # no scaler, so no step is skipped
    gradient_checkpointing=False,  # its memory has room for the activations: the plan says how much
    memory_gib=22.0,  # an L4, the smallest of these cards that Colab has
    peak_tflops=121.0,  # NVIDIA's data sheet for the L4; an A100 has 312
    attention="sdpa",  # its flash kernel shares keys by itself
)

PRESETS = {preset.name: preset for preset in (CPU, CPU_BFLOAT16, T4, AMPERE)}
"""Every preset by its name; :func:`detect` chooses the one for this machine."""


def detect() -> Preset:
    """Choose the preset for this machine.

    By compute capability: ``torch.cuda.is_bf16_supported()`` says yes on a T4 too, and means emulation.
    The environment variable ``SLEEPSTAGE_PRESET`` names another one: answers in float32 (``cpu``) are the
    same on every processor.
    """
    if name := os.environ.get("SLEEPSTAGE_PRESET"):
        if name not in PRESETS:
            raise ValueError(f"SLEEPSTAGE_PRESET is {name!r}, expected one of {', '.join(PRESETS)}")
        return PRESETS[name]
    if not torch.cuda.is_available():
        multiplies_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return CPU_BFLOAT16 if multiplies_bfloat16() else CPU
    return AMPERE if torch.cuda.get_device_capability() >= (8, 0) else T4


def launch() -> PartialState:
    """Say how many processes train together, and which one this is. Without torchrun there is only one."""
    return PartialState(cpu=not torch.cuda.is_available())


def peak_memory_gib() -> float:
    """Give the most memory that was in use so far: tensors on the GPU, or without one this process's RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # Windows has none

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB on Linux
