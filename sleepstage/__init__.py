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
    "fetch_contest": "contest",
    "missing_features": "contest",
    "read_contest": "contest",
    "sleep_edf_table": "sleep_edf",
    "folder_table": "folder",
    "open_table": "sources",
    "collect": "dataset",
    "describe_nights": "dataset",
    "drop_unscored": "dataset",
    "load_dictionary": "dataset",
    "load_table": "dataset",
    "save_dictionary": "dataset",
    "save_table": "dataset",
    "check_no_leakage": "splits",
    "partition_subjects": "splits",
    "recut": "splits",
    "split_blocks": "splits",
    "split_subjects": "splits",
    "split_table": "splits",
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
    "merge": "export",
    "push": "export",
    "training_plan": "plan",
    "PRESETS": "presets",
    "detect": "presets",
    "TrainingConfig": "qlora",
    "finetune": "qlora",
    "training_windows": "training_text",
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
    "between_people": "people",
    "compare_with_cohort": "people",
    "correlation_clusters": "explore",
    "export_table": "explore",
    "mutual_information": "explore",
    "separation": "explore",
    "plot_feature_correlations": "feature_plots",
    "plot_feature_course": "feature_plots",
    "plot_spectrum": "feature_plots",
    "coloured_text": "epoch_plots",
    "night_explorer": "widgets",
    "plot_night_explorer": "epoch_plots",
    "plot_what_if": "epoch_plots",
    "what_if": "widgets",
    "STAGES": "stages",
    "STAGE_COLORS": "stages",
    "workshop": "workshop",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sleepstage' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f".{_HOME[name]}", __name__)
    return module if name == _HOME[name] else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
