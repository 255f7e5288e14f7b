"""What several test modules share: plots without a display, the night, tokenizers, a tiny model."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a hub
os.environ["SLEEPSTAGE_PRESET"] = "cpu"  # float32: what is compared exactly is the same on every processor


@pytest.fixture(scope="session")
def night():
    """The shipped night."""
    import sleepstage as ss

    return ss.load_demo()


@pytest.fixture(scope="session")
def table(night):
    """The feature table of the shipped night."""
    import sleepstage as ss

    return ss.extract_features(night)


@pytest.fixture(scope="session")
def dead_table(night):
    """The shipped night's table, had the electrode been off from epoch 400 to 459: 60 epochs of zeros."""
    from dataclasses import replace

    import sleepstage as ss

    eeg_uv = night.eeg_uv.copy()
    eeg_uv[400:460] = 0
    return ss.extract_features(replace(night, eeg_uv=eeg_uv))


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    """The offline model's tokenizer: every digit is one token."""
    import sleepstage as ss

    ss.prepare()
    return ss.load_tokenizer(ss.OFFLINE_MODEL)


@pytest.fixture(scope="session")
def llama3_tokenizer():
    """Llama-3's tokenizer, which groups up to three digits, made from Meta's rank file."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    package = Path(importlib.util.find_spec("llama_models").origin).parent
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    fast = TikTokenConverter(
        vocab_file=str(package / "llama3" / "tokenizer.model"), pattern=pattern, extra_special_tokens=special
    ).converted()
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token=special[0], eos_token=special[1])


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, smollm2_tokenizer) -> Path:
    """A folder with a random two-layer Llama and SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder
