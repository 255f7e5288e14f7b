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
    "Recording": "recordings.recording",
    "load_demo": "recordings.recording",
    "read_recording": "recordings.recording",
    "demo_paths": "recordings.recording",
    "describe_features": "features.catalogue",
    "extract_features": "features.extract",
    "feature_columns": "features.catalogue",
    "fetch_contest": "dataset.contest",
    "missing_features": "dataset.contest",
    "read_contest": "dataset.contest",
    "sleep_edf_table": "dataset.sleep_edf",
    "folder_table": "dataset.folder",
    "open_table": "dataset.sources",
    "collect": "dataset.table",
    "describe_nights": "dataset.table",
    "drop_unscored": "dataset.table",
    "load_dictionary": "recordings.dictionary",
    "load_table": "dataset.table",
    "save_dictionary": "recordings.dictionary",
    "save_table": "dataset.table",
    "check_no_leakage": "dataset.splits",
    "partition_subjects": "dataset.splits",
    "recut": "dataset.splits",
    "split_blocks": "dataset.splits",
    "split_subjects": "dataset.splits",
    "split_table": "dataset.splits",
    "Digit": "dataset.digits",
    "PromptSpec": "dataset.digits",
    "default_digits": "dataset.digits",
    "epoch_in_words": "dataset.digits",
    "label_token_ids": "dataset.digits",
    "night_text": "dataset.digits",
    "parse_text": "dataset.digits",
    "OFFLINE_MODEL": "finetuning.settings",
    "load_base": "finetuning.base_model",
    "load_tokenizer": "finetuning.base_model",
    "prepare": "finetuning.base_model",
    "merge": "finetuning.adapter",
    "push": "finetuning.adapter",
    "training_plan": "finetuning.memory_plan",
    "PRESETS": "finetuning.settings",
    "detect": "finetuning.settings",
    "TrainingConfig": "finetuning.settings",
    "finetune": "finetuning.trainer",
    "training_windows": "finetuning.training_texts",
    "Stager": "staging.stager",
    "cohort_figures": "evaluation.cohort",
    "evaluate_cohort": "evaluation.cohort",
    "kappa_difference_ci": "evaluation.cohort",
    "load_validation": "evaluation.cohort",
    "confusion": "evaluation.metrics",
    "gradient_boosting_baseline": "evaluation.baselines",
    "majority_baseline": "evaluation.baselines",
    "most_probable_stages": "stages",
    "report": "evaluation.metrics",
    "score": "evaluation.metrics",
    "plot_confusion_matrix": "plots.results",
    "plot_epoch": "plots.epoch",
    "plot_features_by_stage": "plots.features",
    "plot_hypnodensity": "plots.hypnogram",
    "plot_hypnogram": "plots.hypnogram",
    "plot_hypnogram_comparison": "plots.hypnogram",
    "plot_spectrogram": "plots.hypnogram",
    "plot_training_curve": "plots.results",
    "between_people": "features.statistics",
    "compare_with_cohort": "features.statistics",
    "correlation_clusters": "features.statistics",
    "export_table": "dataset.table",
    "mutual_information": "features.statistics",
    "separation": "features.statistics",
    "plot_feature_correlations": "plots.features",
    "plot_feature_course": "plots.features",
    "plot_spectrum": "plots.features",
    "coloured_text": "plots.epoch",
    "night_explorer": "plots.widgets",
    "plot_night_explorer": "plots.epoch",
    "plot_what_if": "plots.epoch",
    "what_if": "plots.widgets",
    "STAGES": "stages",
    "STAGE_COLORS": "stages",
    "BANDS_HZ": "features.catalogue",
    "plan_text": "finetuning.memory_plan",
    "peak_memory_gib": "finetuning.settings",
    "LiveCurve": "plots.widgets",
    "check_restart": "course.colab",
    "data_folder": "course.colab",
    "workshop": "course.workshop",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sleepstage' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f".{_HOME[name]}", __name__)
    return module if _HOME[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
