from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import psutil
import pytest
import torch

import sleepstage as ss
from sleepstage.finetuning.settings import AMPERE, CPU, CPU_BFLOAT16, PRESETS, T4, peak_memory_gib
from sleepstage.finetuning.trainer import training_arguments


@pytest.fixture(autouse=True)
def no_preset_is_named(monkeypatch):
    monkeypatch.delenv("SLEEPSTAGE_PRESET")


@pytest.mark.parametrize(("capability", "preset"), [((7, 5), T4), ((8, 0), AMPERE), ((9, 0), AMPERE)])
def test_preset_is_chosen_by_compute_capability(monkeypatch, capability, preset):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # what a T4 says, and should not
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert ss.detect() is preset


@pytest.mark.parametrize(("multiplies_bfloat16", "preset"), [(True, CPU_BFLOAT16), (False, CPU)])
def test_preset_without_a_gpu_is_the_cpu(monkeypatch, multiplies_bfloat16, preset):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies_bfloat16, raising=False)
    assert ss.detect() is preset


def test_a_preset_can_be_named(monkeypatch):
    monkeypatch.setenv("SLEEPSTAGE_PRESET", "ampere")
    assert ss.detect() is AMPERE
    monkeypatch.setenv("SLEEPSTAGE_PRESET", "tpu")
    with pytest.raises(ValueError, match="'tpu', expected one of cpu, cpu-bfloat16"):
        ss.detect()


def test_products_are_the_presets_in_the_block_only():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="stop"), CPU.products():
        assert torch.get_float32_matmul_precision() == "medium"
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == before


def test_precision_is_what_the_card_computes():
    assert {name: preset.dtype for name, preset in PRESETS.items()} == {
        "cpu": torch.float32,
        "cpu-bfloat16": torch.bfloat16,
        "t4": torch.float16,
        "ampere": torch.bfloat16,
    }
    for preset in PRESETS.values():
        settings = preset.trainer_settings()
        assert settings["fp16"] == (preset is T4) and settings["bf16"] == (preset in (AMPERE, CPU_BFLOAT16))
        assert settings["use_cpu"] == (preset in (CPU, CPU_BFLOAT16))
        assert preset.loading_settings()["dtype"] is preset.dtype


def test_every_process_of_a_launch_loads_to_its_own_gpu(monkeypatch):
    monkeypatch.setattr(
        "sleepstage.finetuning.settings.PartialState", lambda: type("", (), {"local_process_index": 1})
    )
    assert T4.loading_settings()["device_map"] == {"": "cuda:1"}
    assert CPU.loading_settings()["device_map"] == {"": "cpu"}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=str)
def test_training_config_is_the_preset_where_nothing_else_is_asked(preset):
    config = preset.training_config(n_steps=7, windows_per_batch=3)
    assert (config.base, config.batches_per_step) == (preset.base, preset.batches_per_step)
    assert (config.n_steps, config.windows_per_batch) == (7, 3)
    assert all(getattr(config, name) == value for name, value in preset.recipe.items() if name != "n_steps")
    own = {"base", "windows_per_batch", "batches_per_step", "n_steps", *preset.recipe}
    for field in fields(config):
        if field.name not in own:
            assert getattr(config, field.name) == field.default
    assert preset.windows_per_batch * preset.batches_per_step == 4


def test_a_gpu_trains_on_many_people_as_the_adapter_that_ships_was_trained():
    for preset in (T4, AMPERE):
        config = preset.training_config()
        assert config.blur > 0 and config.partial_share > 0 and config.hinted_share > 0
        assert 1000 <= config.n_steps <= 1200 and config.warmup_steps >= 30
    assert CPU.training_config() == ss.TrainingConfig(windows_per_batch=2, batches_per_step=2)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        *[(name, float("nan")) for name in ("learning_rate", "max_minutes", "blur", "partial_share")],
        *[("n_steps", 0), ("max_minutes", 0), ("max_minutes", -1.0), ("blur", 5), ("blur", -1)],
        *[("partial_share", 7.0), ("teacher_share", 1.5), ("learning_rate", 0.0), ("learning_rate", "1e-3")],
        *[("lora_rank", 10**6), ("lora_rank", True), ("margin_epochs", 10**6), ("n_steps", 1.5)],
        *[("windows_per_batch", 0), ("checkpoint_steps", 0), ("seed", -1), ("learning_rate", float("inf"))],
        ("n_steps", None),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(setting, wrong):
    with pytest.raises(ValueError, match=f"{setting} is .*expected a"):
        ss.TrainingConfig(**{setting: wrong})


@pytest.mark.parametrize(
    "weights", [(1.0, 2.0), (1.0, 2.0, float("nan"), 1.0, 1.0), (1.0, -2.0, 1.0, 1.0, 1.0)]
)
def test_class_weights_are_five_positive_numbers(weights):
    with pytest.raises(ValueError, match="class weight"):
        ss.TrainingConfig(class_weights=weights)


def test_a_base_may_be_a_path(tmp_path):
    assert ss.TrainingConfig(base=tmp_path).base == str(tmp_path)
    assert ss.TrainingConfig().max_minutes is None


def test_trainer_gets_the_presets_settings(tmp_path):
    arguments = training_arguments(ss.TrainingConfig(), tmp_path)
    for name, value in ss.detect().trainer_settings().items():
        assert getattr(arguments, name) == value


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_is_the_processs_without_a_gpu(system, unit, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_memory_gib() >= psutil.Process().memory_info().rss / 2**30 - 0.01
    usage = SimpleNamespace(ru_maxrss=3 * 2**30 // unit)
    monkeypatch.setattr("resource.getrusage", lambda whose: usage)
    monkeypatch.setattr("sys.platform", system)
    assert peak_memory_gib() == 3.0


def test_peak_memory_is_the_cards_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    assert peak_memory_gib() == 3.0
