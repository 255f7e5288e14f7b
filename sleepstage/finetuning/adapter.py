"""An adapter as files: written whole, merged into its base model, pushed to a hub."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from peft import PeftModel

from ..dataset.digits import PromptSpec, label_token_ids, tokenizer_hash
from ..files import DATA_DIR, Contents, check_replaceable, replacing
from .base_model import (
    architecture,
    check_finite,
    fingerprint,
    load_base,
    load_tokenizer,
    quiet_libraries,
)
from .calibration import HypnogramPrior

OWN_FILES = ("prompt.json", "prior.json", "train.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", *OWN_FILES)
SHIPPED_ADAPTER = DATA_DIR / "adapter"

ADAPTER = Contents("an adapter folder", ADAPTER_FILES.__contains__, "train.json")


# What transformers writes for a model and its tokenizer, and we beside it.
_MERGED_FILE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|tokenizer\.model|chat_template\.jinja|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|"
    + "|".join(map(re.escape, OWN_FILES))
)


MERGED = Contents("a merged model's folder", _MERGED_FILE.fullmatch, "train.json")


def save_adapter(
    model: Any, folder: str | Path, spec: PromptSpec, prior: HypnogramPrior, card: dict[str, Any]
) -> None:
    """Write an adapter folder whole: the weights, ``prompt.json``, ``prior.json`` and ``train.json``.

    Raises
    ------
    ValueError
        If a weight is not finite, or the folder holds something else (:func:`sleepstage.files.replacing`).
    """
    model.peft_config["default"].base_model_name_or_path = str(card["base"])
    lora = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    halves = {name: weight.data.half() for name, weight in lora.items()}
    check_finite(halves.items())
    for name, weight in lora.items():  # half the file; the model in hand gets the same rounded weights
        weight.data = halves[name]
    with replacing(folder, ADAPTER) as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)  # they are the base model's own
        (scratch / "README.md").unlink(missing_ok=True)  # peft's empty template
        _keep_only_what_is_set(scratch / "adapter_config.json")
        spec.save(scratch / "prompt.json")
        prior.save(scratch / "prior.json")
        (scratch / "train.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for weight in lora.values():
        weight.data = weight.data.float()


def merge(adapter: str | Path, folder: str | Path, base: str | Path | None = None) -> Path:
    """Add an adapter to its base model's weights, and write an ordinary model that needs no peft.

    The base model is not quantized for that, nor is the result: an adapter that was trained beside NF4
    weights is added to the exact ones that they stand for, and answers as ``Stager.from_pretrained(adapter,
    nf4=False)`` does. A base that exists in NF4 only is dequantized first. The folder, with four bytes a
    weight on a CPU, is read by ``Stager.from_pretrained(folder)``, and by whatever reads a LLaMA; but
    others read from left to right only, and misread with an adapter that was trained to read both ways.

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
    model, tokenizer, card = load_adapter(adapter, base, nf4=False)
    with replacing(folder, MERGED, [adapter, base or card["base"]]) as scratch, quiet_libraries():
        merged = model.merge_and_unload()
        check_finite(merged.named_parameters())
        merged.save_pretrained(scratch, save_original_format=False)  # not in NF4, if the base came so
        tokenizer.save_pretrained(scratch)
        for name in OWN_FILES:
            shutil.copy2(adapter / name, scratch)
    return folder


def push(folder: str | Path, repo: str, token: str | None) -> str:
    """Upload an adapter or a merged model to a private repository on the Hugging Face hub.

    Parameters
    ----------
    folder : str or Path
    repo : str
        ``"owner/name"``; made if it does not exist.
    token : str or None
        A token that may write. It is never looked for: whoever uploads hands it over.

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


def _keep_only_what_is_set(config: Path) -> None:
    """Drop the settings that are off: an older peft does not know a newer one's."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if value not in (None, False, {})}
    config.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def load_adapter(
    adapter: Path, base: str | Path | None = None, nf4: bool | None = None, trainable: bool = False
) -> tuple[PeftModel, Any, dict[str, Any]]:
    """Load an adapter on its base model, checked to be the one it was trained on.

    Returns the model, its tokenizer and what ``train.json`` says; see :meth:`Stager.from_pretrained`.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{adapter} is not an adapter folder: it lacks {', '.join(missing)}")
    card = read_card(adapter)
    base = card["base"] if base is None else base
    tokenizer = load_tokenizer(base)
    _check_fits(adapter, card, base, tokenizer, PromptSpec.load(adapter / "prompt.json"))
    with quiet_libraries():
        base_model = load_base(base, card["nf4"] if nf4 is None else nf4)
        model = PeftModel.from_pretrained(base_model, str(adapter), is_trainable=trainable)
    return model, tokenizer, card


def read_card(adapter: Path) -> dict[str, Any]:
    return json.loads((adapter / "train.json").read_text(encoding="utf-8"))


def _check_fits(adapter: Path, card: dict, base: str | Path, tokenizer: Any, spec: PromptSpec) -> None:
    pairs = {
        "base model weights": (card["base_fingerprint"], fingerprint(base)),
        "tokenizer": (card["tokenizer_hash"], tokenizer_hash(tokenizer)),
        "label tokens": (card["label_token_ids"], label_token_ids(spec.labels, tokenizer)),
    }
    if "base_architecture" in card:  # adapters from before do not say
        pairs["base model architecture"] = (card["base_architecture"], architecture(base))
    for what, (trained, found) in pairs.items():
        if trained != found:
            raise ValueError(
                f"the adapter in {adapter} does not fit {base}: it was trained with the {what} {trained}, "
                f"found {found}. Use the base model {card['base']!r} it was trained on, or train it anew."
            )
