"""Teach a large language model to read a night of sleep.

EEG → features → text → QLoRA → hypnogram. The names below are loaded when they are first used, so that
reading a night does not wait for PyTorch.
"""

import logging
from importlib import import_module
from typing import Any

# While it is imported, bitsandbytes looks for a compiled kernel on the hub, and warns that it does without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_HOME = {
    "Recording": "recording",
    "load_demo": "recording",
    "read_recording": "recording",
    "demo_paths": "download",
    "describe_features": "features",
    "extract_features": "features",
    "feature_columns": "features",
    "sleep_edf_table": "sleep_edf",
    "folder_table": "folder",
    "collect": "dataset",
    "load_dictionary": "dataset",
    "load_table": "dataset",
    "save_dictionary": "dataset",
    "save_table": "dataset",
    "check_no_leakage": "splits",
    "partition_subjects": "splits",
    "recut": "splits",
    "split_blocks": "splits",
    "split_subjects": "splits",
    "Digit": "prompts",
    "PromptSpec": "prompts",
    "default_digits": "prompts",
    "epoch_in_words": "prompts",
    "label_token_ids": "prompts",
    "night_text": "prompts",
    "parse_text": "prompts",
    "OFFLINE_MODEL": "base_model",
    "load_base": "base_model",
    "load_tokenizer": "base_model",
    "prepare": "base_model",
    "TrainingConfig": "qlora",
    "finetune": "qlora",
    "training_windows": "qlora",
    "Stager": "stager",
    "cohort_figures": "cohort",
    "evaluate_cohort": "cohort",
    "kappa_difference_ci": "cohort",
    "load_validation": "cohort",
    "confusion": "evaluate",
    "gradient_boosting_baseline": "evaluate",
    "majority_baseline": "evaluate",
    "most_probable_stages": "evaluate",
    "report": "evaluate",
    "score": "evaluate",
    "plot_confusion_matrix": "plots",
    "plot_epoch": "plots",
    "plot_features_by_stage": "plots",
    "plot_hypnodensity": "plots",
    "plot_hypnogram": "plots",
    "plot_hypnogram_comparison": "plots",
    "plot_spectrogram": "plots",
    "plot_training_curve": "plots",
    "STAGES": "stages",
    "STAGE_COLORS": "stages",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sleepstage' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
