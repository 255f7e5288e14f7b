"""An adapter as files: loaded with its base model, saved, merged into the base, pushed to a hub."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from ..dataset.digits import PromptSpec
from ..files import (
    DATA_DIR,
    Contents,
    check_number,
    check_replaceable,
    check_subjects,
    naming,
    read_json,
    replacing,
    write_json,
)
from . import base_model
from .base_model import check_finite, quiet_libraries
from .calibration import HypnogramPrior
from .checkpoints import MODEL_FILE

SHIPPED_ADAPTER = DATA_DIR / "adapter"

OWN_FILES = ("prompt.json", "prior.json", "train.json")
"""What we write beside the weights, into an adapter's folder and into a merged model's."""

SHARD_BYTES = 2 * 10**9
"""A merged model's largest file. On its way from the card to the disk each lies in the host's memory."""

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", *OWN_FILES)

FIGURES = "figures.json"
"""What ``python -m sleepstage train`` writes into an adapter's folder about its validation subjects."""

_ADAPTER_FILE = r"adapter_(config\.json|model\.safetensors)|(prompt|prior|train|figures)\.json(\.partial\d*)?"
_MERGED_FILE = rf"{MODEL_FILE}|(prompt|prior|train)\.json"

# Nobody else writes a prior.json.
ADAPTER = Contents("an adapter folder", re.compile(_ADAPTER_FILE).fullmatch, "prior.json")
MERGED = Contents("a merged model's folder", re.compile(_MERGED_FILE).fullmatch, "prior.json")


@dataclass(frozen=True)
class Adapter:
    """A tuned model in memory, with all that its folder says about it.

    Attributes
    ----------
    model : peft.PeftModel or transformers.PreTrainedModel
        The base model with the low-rank matrices beside its layers; or a merged model, which is one model.
    tokenizer : transformers tokenizer
    spec : PromptSpec
        ``prompt.json``: how a night becomes text.
    prior : HypnogramPrior
        ``prior.json``: temperature and stage transitions.
    card : dict
        ``train.json``: the base model, the people that it learned from, the settings of the training.
    """

    model: Any
    tokenizer: Any
    spec: PromptSpec
    prior: HypnogramPrior
    card: dict[str, Any]


def load_adapter(
    folder: str | Path, base: str | Path | None = None, nf4: bool | None = None, trainable: bool = False
) -> Adapter:
    """Load an adapter on the base model that it was trained on, or a merged model.

    Parameters
    ----------
    folder : str or Path
        An adapter folder written by :func:`sleepstage.finetune`, or a model's written by
        :func:`sleepstage.merge`, which needs no base model.
    base : str or Path, optional
        Where the base model lies, if not where it was in training: a folder, or a name on the hub. Nothing is
        fetched from the hub that is not named here (:func:`sleepstage.finetuning.base_model.local_copy`).
    nf4 : bool, optional
        Quantize the base model, or do not; by default as in training. A merged model is not quantized by
        default.
    trainable : bool
        Let the low-rank matrices be trained further.

    Raises
    ------
    FileNotFoundError
        If a file is missing in the folder.
    ValueError
        If the base model or its tokenizer is not the one that the adapter was trained on; if a file is
        damaged, holds impossible numbers, or is more than a plain LoRA.
    """
    folder = Path(folder)
    merged = (folder / "config.json").is_file()
    missing = [name for name in (OWN_FILES if merged else ADAPTER_FILES) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not an adapter folder: it lacks {', '.join(missing)}")
    for name in ("config.json", "generation_config.json"):
        if merged and (folder / name).is_file():
            # transformers makes a name for each label, before it looks whether the model has any.
            n_labels = read_json(folder / name).get("num_labels", 0)
            check_number(n_labels, f"{folder / name}: num_labels", 0, 1000, whole=True)
    card = read_card(folder)
    spec, prior = PromptSpec.load(folder / "prompt.json"), HypnogramPrior.load(folder / "prior.json")
    location = folder if merged else base or base_model.local_copy(card["base"])
    with naming(location, "a base model for this adapter"):
        tokenizer = base_model.load_tokenizer(location)
        identity = base_model.identity(location, tokenizer, spec.labels, with_weights=not merged)
    for what, found in identity.items():
        trained = card.get(what, found)
        if isinstance(found, dict) and isinstance(trained, dict):  # what both say: versions differ in names
            found = {name: found.get(name, value) for name, value in trained.items()}
        if trained != found:
            raise ValueError(
                f"the adapter in {folder} does not fit {base or card['base']}: its {what} is {trained}, "
                f"found {found}. Use {card['base']!r}, the base model that it was trained on, or train anew."
            )
    if merged:
        _check_merged(folder)
        return Adapter(base_model.load_base(folder, bool(nf4)), tokenizer, spec, prior, card)
    config = _plain_lora(folder / "adapter_config.json")
    base_weights = base_model.load_base(location, card["nf4"] if nf4 is None else nf4)
    _check_tensors(folder / "adapter_model.safetensors", base_weights, config)
    with quiet_libraries():
        model = PeftModel.from_pretrained(base_weights, str(folder), is_trainable=trainable, config=config)
    return Adapter(model, tokenizer, spec, prior, card)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read an adapter's ``train.json``.

    Raises
    ------
    ValueError
        If it lacks what is needed to load the adapter, or that is of another type.
    """
    path = Path(folder) / "train.json"
    card = read_json(path)
    with naming(path, "a training's notes"):
        for name, kind in _CARD.items():
            if not isinstance(card[name], kind):
                raise ValueError(f"{name} is {card[name]!r}, expected {kind.__name__}")
        check_subjects(card["subjects"], "subjects")
    return card


_CARD = {
    **{name: str for name in ("base", "base_fingerprint", "tokenizer_hash")},
    **{"nf4": bool, "label_token_ids": list, "subjects": list},
}
"""What ``train.json`` must say, and its type."""

_OF_NO_EFFECT = {
    *("base_model_name_or_path", "peft_version", "revision", "inference_mode", "auto_mapping"),
    *("megatron_core", "qalora_group_size", "target_modules"),
}
"""Settings of peft that do not change what a plain LoRA computes, and the one that is checked by itself."""


def _plain_lora(path: Path) -> LoraConfig:
    """Read ``adapter_config.json``; refuse whatever is more than low-rank matrices beside linear layers."""
    settings = read_json(path)
    with naming(path, "a plain LoRA's"):
        if settings["peft_type"] != "LORA":
            raise ValueError(f"peft_type is {settings['peft_type']!r}, expected 'LORA'")
        check_number(settings["r"], "r", 1, 512, whole=True)  # the memory grows with it
        check_number(settings["lora_alpha"], "lora_alpha", 1e-3, 1e5)
        targets = settings["target_modules"]
        if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
            raise ValueError(f"target_modules is {targets!r}, expected a list of the layers' names")
        plain = LoraConfig(
            **{name: settings[name] for name in ("r", "lora_alpha", "target_modules")}, task_type="CAUSAL_LM"
        )
        for name, value in settings.items():
            harmless = name in _OF_NO_EFFECT or value in (None, False, {}, [], getattr(plain, name, None))
            if not harmless:
                raise ValueError(f"{name} is {value!r}, expected none")
    return plain


def _check_tensors(path: Path, model: Any, config: LoraConfig) -> None:
    """Refuse tensors whose names, shapes or numbers are not those of a plain LoRA on a model's layers."""
    head, targets = model.get_output_embeddings(), set(config.target_modules or ())
    expected = {}
    for name, module in model.named_modules():
        words = name.split(".")
        if not targets.isdisjoint(".".join(words[start:]) for start in range(len(words))):
            if not isinstance(module, torch.nn.Linear) or module is head:
                raise ValueError(f"{path.parent} changes {name}, expected linear layers only, no head")
            lora = f"base_model.model.{name}.lora"
            expected[f"{lora}_A.weight"] = [config.r, module.in_features]
            expected[f"{lora}_B.weight"] = [module.out_features, config.r]
    _check_files([path], expected)


def _check_merged(folder: Path) -> None:
    """Refuse weights that are not those of ``config.json``: a layer that is missing would be random."""
    with naming(folder / "config.json", "a merged model's"), torch.device("meta"), quiet_libraries():
        config = base_model.config_of(folder)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(f"quantization_config is {config.quantization_config!r}, expected none")
        # A file's own attention may be the name of code on the hub.
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
    expected = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with naming(folder, "a merged model's folder"):
        files = base_model.weight_files(str(folder))
    if elsewhere := [file for file in files if file.parent != folder]:
        raise ValueError(f"{folder} names the weights {elsewhere[0]}, expected a file in the folder")
    _check_files(files, expected)


def _check_files(paths: list[Path], expected: dict[str, list[int]]) -> None:
    """Refuse tensors whose names and shapes are not these, or that hold what is no finite number."""
    found: dict[str, list[int]] = {}
    for path in paths:
        with naming(path, "a whole file of tensors"), safe_open(path, framework="pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}
    if wrong := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
        raise ValueError(
            f"{paths[0]} does not hold the tensors that its folder's settings ask for: {len(wrong)} are "
            f"missing, too many or of another shape, such as {wrong[0]} (found {found.get(wrong[0])}, "
            f"expected {expected.get(wrong[0])})"
        )
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                weight = file.get_tensor(name)
                if not weight.is_floating_point() or not weight.isfinite().all():
                    raise ValueError(f"{path}: {name} holds what is no finite number")


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter folder whole: the weights, ``prompt.json``, ``prior.json`` and ``train.json``.

    Weights are written in half precision. Those of the model in memory are rounded in the same way, so that
    it gives the same answers as the one that is loaded later.

    Raises
    ------
    ValueError
        If a weight is not finite, or the folder holds something else (:func:`sleepstage.files.replacing`).
    """
    model = adapter.model
    model.peft_config["default"].base_model_name_or_path = str(adapter.card["base"])
    lora = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    halves = {name: weight.data.half() for name, weight in lora.items()}
    check_finite(halves.items())
    for name, weight in lora.items():
        weight.data = halves[name]
    with replacing(folder, ADAPTER) as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)  # they are the base model's own
        (scratch / "README.md").unlink(missing_ok=True)  # peft's empty template
        _keep_only_what_is_set(scratch / "adapter_config.json")
        adapter.spec.save(scratch / "prompt.json")
        adapter.prior.save(scratch / "prior.json")
        write_json(scratch / "train.json", adapter.card)
    for weight in lora.values():
        weight.data = weight.data.float()


def _keep_only_what_is_set(config: Path) -> None:
    """Drop the settings that are off: an older peft does not know all settings of a newer one."""
    settings = read_json(config).items()
    write_json(config, {name: value for name, value in settings if value not in (None, False, {})})


def merge(adapter: str | Path, folder: str | Path, base: str | Path | None = None) -> Path:
    """Add an adapter to its base model's weights, and write an ordinary model that needs no peft.

    The base model is loaded without quantization, or dequantized if it exists in NF4 only, and the result is
    not quantized. It gives the answers of ``Stager.from_pretrained(adapter, nf4=False)``. Its folder takes
    two bytes a weight on a GPU and four on a CPU. A base of 3B in NF4 needs 9 GB of a card and 4 GB of the
    host's memory, which a free Colab machine has; or 16 GB of the host's, without a card.

    ``Stager.from_pretrained(folder)`` reads it, and so does every program that reads a LLaMA. But other
    programs use causal attention: they misread a model that was trained with bidirectional attention.

    Parameters
    ----------
    adapter : str or Path
        An adapter folder written by :func:`sleepstage.finetune`.
    folder : str or Path
        The folder to write; an earlier merged model there is replaced.
    base : str or Path, optional
        Where the base model lies, if not where it was in training.

    Raises
    ------
    FileNotFoundError
        If the adapter folder is incomplete.
    ValueError
        If the base model is not the one that the adapter was trained on; if the folder is the adapter's or
        the base model's own, or holds something else than a merged model; if a merged weight is not finite.
    """
    adapter, folder = Path(adapter), Path(folder)
    check_replaceable(folder, MERGED, [adapter])  # before a large model is loaded
    loaded = load_adapter(adapter, base, nf4=False)
    if not isinstance(loaded.model, PeftModel):
        raise ValueError(f"{adapter} is a merged model already; copy the folder")
    with replacing(folder, MERGED, [adapter, base or loaded.card["base"]]) as scratch, quiet_libraries():
        model = loaded.model.merge_and_unload()
        check_finite(model.named_parameters())
        model.save_pretrained(
            scratch,
            save_original_format=False,  # not in NF4, if the base came so
            max_shard_size=SHARD_BYTES,
        )
        loaded.tokenizer.save_pretrained(scratch)
        for name in OWN_FILES:
            shutil.copyfile(adapter / name, scratch / name)  # not with the rights of a file to read only
    return folder


def push(folder: str | Path, repo: str, token: str | None) -> str:
    """Upload an adapter or a merged model to a private repository on the Hugging Face hub.

    Parameters
    ----------
    folder : str or Path
    repo : str
        ``"owner/name"``; made if it does not exist.
    token : str or None
        A token that may write. You must pass it: this function does not look for one.

    Returns
    -------
    str
        The address of what was uploaded.

    Raises
    ------
    ValueError
        If there is no token.
    """
    if not token:
        raise ValueError(
            f"nothing was uploaded to {repo}: there is no token. Make one that may write at "
            "https://huggingface.co/settings/tokens and pass it as token=…"
        )
    hub = HfApi(token=token)
    hub.create_repo(repo, private=True, exist_ok=True)  # train.json names the people it learned from
    return str(hub.upload_folder(folder_path=folder, repo_id=repo))
