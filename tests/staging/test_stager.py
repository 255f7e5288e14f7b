from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import sleepstage as ss
from sleepstage.dataset.windows import cut_windows
from sleepstage.finetuning.adapter import Adapter, save_adapter
from sleepstage.finetuning.calibration import HypnogramPrior
from sleepstage.finetuning.trainer import _card as card_of
from sleepstage.finetuning.trainer import build_trainer

DIGITS = (ss.Digit("std_uv"), ss.Digit("mobility"), ss.Digit("sigma_power_rel"))


@pytest.fixture(scope="module")
def spec():
    return ss.PromptSpec(digits=DIGITS, window=12, look_ahead=3)


@pytest.fixture(scope="module")
def stager(tiny_base, spec):
    return ss.Stager.from_base(spec, tiny_base, nf4=False)


@pytest.mark.parametrize("n_epochs", [1, 3, 11, 12, 13, 100])
def test_every_epoch_of_a_night_of_any_length_is_answered(stager, table, n_epochs):
    night = table.iloc[:n_epochs]
    with pytest.warns(UserWarning, match="less than two hours"):
        proba = stager.predict_proba(night)
    assert proba.index.equals(night.index)
    assert list(proba.columns) == ["W", "N1", "N2", "N3", "REM"]
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert (proba > 0).all(axis=None)


def test_answer_is_the_softmax_over_the_words_after_the_epochs_own_text(stager, table, spec):
    """One epoch worked by hand: its window as a string, the model's next-token distribution at the end."""
    proba = stager.predict_proba(table, stride=9)
    lines = ss.night_text(spec.levels(table), "\n").split("\n")
    epoch = 4  # answered in the first window only, after the line look_ahead later
    text = "".join(lines[: epoch + spec.look_ahead + 1])
    ids = [stager.tokenizer.bos_token_id, *stager.tokenizer(text, add_special_tokens=False).input_ids]
    with torch.inference_mode():
        logits = stager.model(torch.tensor([ids])).logits[0, -1]
    words = [stager.tokenizer(word, add_special_tokens=False).input_ids[0] for word in spec.labels]
    np.testing.assert_allclose(proba.iloc[epoch], logits[words].softmax(-1), atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_two_way_reader_sees_what_follows_beyond_the_look_ahead(tiny_base, table, spec, bidirectional):
    """Windows of 12 lines: the first epoch is answered after line 4, and only line 12 is changed."""
    stager = ss.Stager.from_base(replace(spec, bidirectional=bidirectional), tiny_base, nf4=False)
    levels = spec.levels(table)[:12]
    changed = np.concatenate([levels[:-1], 10 - levels[-1:]])
    windows = [
        cut_windows(lines, stager.spec, stager.tokenizer, np.array([0])) for lines in (levels, changed)
    ]
    one, other = (stager._answer(each.input_ids, each.positions)[0, spec.look_ahead] for each in windows)
    assert (np.abs(one - other).max() > 1e-7) == bidirectional


def test_overlapping_windows_are_averaged(stager, table):
    """Windows at lines 0, 5 and 9 against windows at 0 and 9: only epochs 5 to 13 get a second answer."""
    night = table.iloc[:18]
    with pytest.warns(UserWarning):
        three, two = (stager.predict_proba(night, stride=stride).to_numpy() for stride in (5, 9))
    differ = np.abs(three - two).max(axis=1) > 1e-6
    assert np.flatnonzero(differ).tolist() == list(range(5, 14))


def test_batches_do_not_change_answers(stager, table):
    one, many = (stager.predict_proba(table, windows_per_batch=size) for size in (1, 16))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_nights_do_not_look_into_each_other(stager, table):
    first, second = table.iloc[:300], table.iloc[300:600]
    second = pd.concat(
        {(1, "other"): second.droplevel(["subject", "recording"])}, names=["subject", "recording"]
    )
    together = stager.predict_proba(pd.concat([first, second]))
    np.testing.assert_allclose(together.iloc[:300], stager.predict_proba(first), atol=1e-6)
    np.testing.assert_allclose(together.iloc[300:], stager.predict_proba(second), atol=1e-6)


def test_stages_are_not_looked_at(stager, table):
    blind = stager.predict_proba(table.assign(stage=np.int8(-1)))
    np.testing.assert_array_equal(blind, stager.predict_proba(table))


@pytest.fixture(scope="module")
def adapter(table, spec, tiny_base, tmp_path_factory):
    """An adapter whose B matrices are not zero, saved by the trainer's own path."""
    config = ss.TrainingConfig(base=str(tiny_base), n_steps=1, lora_rank=4)
    folder = tmp_path_factory.mktemp("stager") / "adapter"
    trainer = build_trainer(table, spec, config, folder)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    card = card_of(trainer, table, config, pd.DataFrame(), 0.0)
    prior = HypnogramPrior.from_table(table)
    save_adapter(Adapter(trainer.model, trainer.processing_class, spec, prior, card), folder)
    return folder, trainer


def test_reloaded_adapter_gives_the_same_probabilities(adapter, table, spec, stager):
    folder, trainer = adapter
    trained = ss.Stager(trainer.model, stager.tokenizer, spec).predict_proba(table)
    reloaded = ss.Stager.from_pretrained(folder).predict_proba(table)
    np.testing.assert_allclose(reloaded, trained, atol=1e-5)
    assert np.abs(reloaded - stager.predict_proba(table)).to_numpy().max() > 0.01


def test_adapter_on_another_base_is_refused(adapter, tiny_base, tmp_path, smollm2_tokenizer):
    folder, _ = adapter
    model = ss.load_base(tiny_base, nf4=False)
    with torch.no_grad():
        model.model.norm.weight[0] += 0.5
    model.save_pretrained(tmp_path)
    smollm2_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="base model weights"):
        ss.Stager.from_pretrained(folder, base=tmp_path)


def test_adapter_with_other_label_tokens_is_refused(adapter, tmp_path):
    folder, _ = adapter
    copy = tmp_path / "adapter"
    shutil.copytree(folder, copy)
    card = json.loads((copy / "train.json").read_text())
    card["label_token_ids"][0] += 1
    (copy / "train.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="label tokens"):
        ss.Stager.from_pretrained(copy)


def test_folder_that_is_no_adapter_names_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="prompt.json"):
        ss.Stager.from_pretrained(tmp_path)


def test_table_without_a_needed_column_names_it(stager, table):
    with pytest.raises(ValueError, match="no column 'mobility'"):
        stager.predict_proba(table.drop(columns="mobility"))


class Reader(ss.Stager):
    """Knows the stages, but takes every 50th epoch of wake for light sleep; keeps what it was given."""

    def __init__(self, spec):
        self.spec, self.prior, self.given = spec, None, []

    def _read(self, table, stride, windows_per_batch):
        self.given.append(table)
        proba = np.eye(5)[table["stage"]]
        proba[::50] = np.eye(5)[1]
        return pd.DataFrame(proba, index=table.index, columns=list(ss.STAGES))


def with_wake_around(table, before, after):
    """The night with that many epochs of its own wake before and after it."""
    wake = table[table["stage"] == 0]
    long = pd.concat([wake.iloc[np.resize(np.arange(len(wake)), n)] for n in (before, after)])
    long = pd.concat([long.iloc[:before], table, long.iloc[before:]])
    epochs = pd.MultiIndex.from_product([[0], ["long"], range(len(long))], names=table.index.names)
    return long.set_axis(epochs)


def test_a_night_in_hours_of_wake_is_read_a_second_time_on_its_own(table, spec):
    reader = Reader(spec)
    long = with_wake_around(table, 700, 800)
    proba = reader.predict_proba(long)
    first, second = reader.given
    assert len(first) == len(long) and proba.index.equals(long.index)
    asleep = np.flatnonzero((table["stage"] > 0).to_numpy()) + 700
    epochs = second.index.get_level_values("epoch")
    assert asleep[0] - 70 <= epochs[0] <= asleep[0] and asleep[-1] <= epochs[-1] <= asleep[-1] + 70


def test_an_ordinary_night_is_read_once(table, spec):
    """Even if hours of it are wake, as long as there is sleep before and after."""
    reader = Reader(spec)
    stages = table["stage"].to_numpy().copy()
    stages[300:550] = 0
    reader.predict_proba(table.assign(stage=stages))
    reader.predict_proba(table.assign(stage=0))  # nobody slept: there is nothing to read again
    assert len(reader.given) == 2


def test_temperature_and_transitions_are_applied_unless_refused(stager, table, spec):
    prior = replace(HypnogramPrior.from_table(table), temperature=2.0, strength=0.5)
    with_prior = ss.Stager(stager.model, stager.tokenizer, spec, prior=prior)
    as_read = stager.predict_proba(table)
    np.testing.assert_allclose(with_prior.predict_proba(table), prior.apply(as_read))
    np.testing.assert_array_equal(with_prior.predict_proba(table, with_prior=False), as_read)


DEAD = slice(400, 460)


@pytest.mark.parametrize("stride", [None, 1])
def test_epochs_that_cannot_be_measured_get_no_stage_and_the_others_keep_theirs(stager, dead_table, stride):
    """Wherever the windows lie: the others get theirs, next to the hole too."""
    with pytest.warns(UserWarning, match=r"60 of 841 epochs \(7 %\) cannot be measured \(zero 60\)") as said:
        proba = stager.predict_proba(dead_table, stride)
    assert len(said) == 1
    assert proba.iloc[DEAD].isna().all(axis=None)
    others = proba.drop(proba.index[DEAD])
    np.testing.assert_allclose(others.sum(axis=1), 1, atol=1e-6)
    stages = ss.most_probable_stages(proba)
    assert np.flatnonzero(stages == -1).tolist() == list(range(400, 460))


def test_far_from_dead_epochs_answers_are_those_of_the_same_lines(stager, table, dead_table, spec):
    """Cohort levels do not depend on the night's other epochs: beyond a window's reach, nothing changes."""
    digits = tuple(ss.Digit(digit.column, "cohort") for digit in DIGITS)
    reader = ss.Stager(
        stager.model, stager.tokenizer, ss.PromptSpec.fit(table, digits, window=12, look_ahead=3)
    )
    before = reader.predict_proba(table)
    with pytest.warns(UserWarning, match="get no stage"):
        after = reader.predict_proba(dead_table)
    far = np.r_[0:388, 472:841]
    np.testing.assert_allclose(after.iloc[far], before.iloc[far], atol=1e-6)
    assert np.abs(after.iloc[399] - before.iloc[399]).max() > 1e-4  # what follows is another text


def test_a_night_without_a_measured_epoch_has_no_stage_at_all(stager, table):
    nothing = table[ss.feature_columns(table)].astype(float) * np.nan
    prior = replace(HypnogramPrior.from_table(table), temperature=2.0, strength=0.5)
    with_prior = ss.Stager(stager.model, stager.tokenizer, stager.spec, prior=prior)
    with pytest.warns(UserWarning, match=r"841 of 841 epochs \(100 %\) cannot be measured and get no stage"):
        proba = with_prior.predict_proba(nothing)
    assert (ss.most_probable_stages(proba) == -1).all()


def test_transitions_go_on_over_dead_epochs_and_leave_them_without_a_stage(stager, table, dead_table):
    prior = replace(HypnogramPrior.from_table(table), temperature=2.0, strength=0.5)
    with_prior = ss.Stager(stager.model, stager.tokenizer, stager.spec, prior=prior)
    with pytest.warns(UserWarning, match="get no stage"):
        proba = with_prior.predict_proba(dead_table)
    assert np.flatnonzero(proba.isna().any(axis=1)).tolist() == list(range(400, 460))


def test_one_window_around_a_dead_epoch_has_no_answer_for_it(stager, dead_table, spec):
    levels = spec.levels(dead_table)
    assert np.isnan(stager.answer(levels, 430)).all()
    assert stager.answer(levels, 399).sum() == pytest.approx(1)


def test_dead_epochs_are_no_sleep(table, spec):
    """An electrode that comes off in the morning does not prolong the night that is read again."""

    class Dead(Reader):
        def _read(self, table, stride, windows_per_batch):
            proba = super()._read(table, stride, windows_per_batch)
            return proba.where(table["std_uv"].notna(), np.nan, axis=0)

    long = with_wake_around(table, 700, 800)
    off = long.copy()
    off.iloc[1700:, : len(ss.feature_columns(off))] = np.nan
    readers = Dead(spec), Dead(spec)
    readers[0].predict_proba(long)
    with pytest.warns(UserWarning, match="641 of 2341"):
        readers[1].predict_proba(off)
    assert readers[0].given[1].index.equals(readers[1].given[1].index)
