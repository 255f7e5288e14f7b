"""Teach a large language model to read a night of sleep.

EEG → features → text → QLoRA → hypnogram. A public name is imported when it is first used, so that
reading and plotting a night does not wait for PyTorch.
"""

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# On import, bitsandbytes warns that it has no compiled kernel for the CPU. It must be silenced before that.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_NAMES = {
    "stages": "STAGES STAGE_COLORS most_probable_stages",
    "recordings.recording": "Recording demo_paths load_demo read_recording",
    "recordings.dictionary": "load_dictionary save_dictionary",
    "features.catalogue": "BANDS_HZ describe_features feature_columns feature_label missing_features",
    "features.extract": "extract_features",
    "features.statistics": "between_people compare_with_cohort correlation_clusters "
    "mutual_information separation",
    "dataset.contest": "fetch_contest read_contest",
    "dataset.sleep_edf": "sleep_edf_table",
    "dataset.folder": "folder_table",
    "dataset.sources": "load_cohort open_table",
    "dataset.table": "collect describe_nights drop_unscored export_table load_table save_table",
    "dataset.splits": "check_no_leakage partition_subjects recut split_blocks split_subjects split_table",
    "dataset.digits": "Digit PromptSpec default_digits epoch_in_words night_text parse_text",
    "dataset.windows": "label_token_ids",
    "finetuning.settings": "OFFLINE_MODEL PRESETS TrainingConfig detect peak_memory_gib",
    "finetuning.hints": "recheck",
    "finetuning.base_model": "load_base load_tokenizer prepare",
    "finetuning.adapter": "merge push",
    "finetuning.memory_plan": "plan_text training_plan",
    "finetuning.training_texts": "training_windows",
    "finetuning.trainer": "finetune",
    "staging.stager": "Stager",
    "evaluation.metrics": "confusion report score",
    "evaluation.baselines": "gradient_boosting_baseline majority_baseline",
    "evaluation.cohort": "cohort_figures kappa_difference_ci load_validation",
    "evaluation.readers": "Reader evaluate_cohort",
    "plots.epoch": "coloured_text digit_name plot_epoch plot_night_explorer plot_spectrum plot_what_if",
    "plots.features": "plot_feature_correlations plot_feature_course plot_features_by_stage",
    "plots.hypnogram": "plot_hypnodensity plot_hypnogram plot_hypnogram_comparison plot_spectrogram "
    "shade_epochs",
    "plots.results": "plot_confusion_matrix plot_training_curve",
    "plots.widgets": "LiveCurve beat_the_expert night_explorer night_scorer what_if",
    "course.colab": "check_restart data_folder",
    "course.workshop": "workshop",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sleepstage' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f".{_HOME[name]}", __name__)
    return module if _HOME[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
