from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import sleepstage as ss
from sleepstage.finetuning.adapter import load_adapter, save_adapter
from sleepstage.finetuning.calibration import HypnogramPrior

DIGITS = (ss.Digit("std_uv"), ss.Digit("mobility"), ss.Digit("sigma_power_rel"))


@pytest.fixture(scope="module")
def spec():
    return ss.PromptSpec(digits=DIGITS, window=12, look_ahead=3, bidirectional=False)


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
def test_bidirectional_attention_sees_beyond_the_look_ahead(tiny_base, table, spec, bidirectional):
    """Windows of 12 lines: the first epoch is answered after line 4, and only line 12 is changed."""
    stager = ss.Stager.from_base(replace(spec, bidirectional=bidirectional), tiny_base, nf4=False)
    levels = spec.levels(table)[:12]
    changed = np.concatenate([levels[:-1], 10 - levels[-1:]])
    one, other = (stager.answer(lines, 0) for lines in (levels, changed))
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
    """A saved adapter whose B matrices are not zero, and the same in memory."""
    folder = tmp_path_factory.mktemp("stager") / "adapter"
    ss.finetune(table, spec, ss.TrainingConfig(base=str(tiny_base), n_steps=1, lora_rank=4), folder)
    loaded = load_adapter(folder)
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(loaded, folder)
    return folder, loaded


def test_reloaded_adapter_gives_the_same_probabilities(adapter, table, spec, stager):
    folder, saved = adapter
    expected = ss.Stager(saved.model, saved.tokenizer, spec).predict_proba(table, with_prior=False)
    reloaded = ss.Stager.from_pretrained(folder)
    np.testing.assert_allclose(reloaded.predict_proba(table, with_prior=False), expected, atol=1e-5)
    assert np.abs(expected - stager.predict_proba(table)).to_numpy().max() > 0.01


def test_without_its_adapter_a_stager_is_the_base_model(adapter, table, spec, tiny_base, tmp_path):
    """Also after bidirectional training: the base model was pre-trained with causal attention."""
    folder, saved = adapter
    save_adapter(replace(saved, spec=replace(spec, bidirectional=True)), tmp_path / "both ways")
    untuned = ss.Stager.from_pretrained(tmp_path / "both ways", untuned=True)
    base = ss.Stager.from_base(spec, tiny_base, nf4=True)
    answers = untuned.predict_proba(table, with_prior=False)
    np.testing.assert_allclose(answers, base.predict_proba(table), atol=1e-6)
    assert untuned.trained_on == tuple(saved.card["subjects"])


def test_adapter_on_another_base_is_refused(adapter, tiny_base, tmp_path, smollm2_tokenizer):
    folder, _ = adapter
    model = ss.load_base(tiny_base, nf4=False)
    with torch.no_grad():
        model.model.norm.weight[0] += 0.5
    model.save_pretrained(tmp_path)
    smollm2_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="base_fingerprint"):
        ss.Stager.from_pretrained(folder, base=tmp_path)


def test_adapter_with_other_label_tokens_is_refused(adapter, tmp_path):
    folder, _ = adapter
    copy = tmp_path / "adapter"
    shutil.copytree(folder, copy)
    card = json.loads((copy / "train.json").read_text())
    card["label_token_ids"][0] += 1
    (copy / "train.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="label_token_ids"):
        ss.Stager.from_pretrained(copy)


def test_folder_that_is_no_adapter_names_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="prompt.json"):
        ss.Stager.from_pretrained(tmp_path)


def test_table_without_a_needed_column_names_it(stager, table):
    with pytest.raises(ValueError, match="no column 'mobility'"):
        stager.predict_proba(table.drop(columns="mobility"))


class Reader(torch.nn.Module):
    """A model that reads lines of five digits: the stage, and the epoch's number in base 9.

    It answers with that stage, and counts how often it read each epoch.
    """

    device, config = torch.device("cpu"), SimpleNamespace()

    def __init__(self, tokenizer, labels):
        super().__init__()
        self.digit_ids = torch.tensor(tokenizer("0123456789", add_special_tokens=False).input_ids)
        self.label_ids = torch.tensor(ss.label_token_ids(labels, tokenizer))
        self.times_read = Counter()

    def forward(self, input_ids, logits_to_keep):
        levels = (input_ids[:, -6:-1, None] == self.digit_ids).int().argmax(-1)  # the colon is the last
        self.times_read.update(((levels[:, 1:] - 1) @ torch.tensor([729, 81, 9, 1])).tolist())
        logits = torch.zeros(len(input_ids), 1, int(self.label_ids.max()) + 1)
        logits[torch.arange(len(input_ids)), 0, self.label_ids[(levels[:, 0] - 1) // 2]] = 50
        return SimpleNamespace(logits=logits)


def read_by_number(stages, tokenizer):
    """Stage a night of these stages with a :class:`Reader`; give its answers, and which epochs it read twice.

    Every 50th epoch is taken for light sleep. Each line is a window of its own.
    """
    said = np.asarray(stages, float).copy()
    said[::50] = np.where(np.isnan(said[::50]), np.nan, 1)
    number = pd.Series(np.arange(len(said))).where(~np.isnan(said))
    columns = {"stage_said": said, **{f"place_{k}": (number // 9**k % 9).to_numpy() for k in (3, 2, 1, 0)}}
    cuts = {name: tuple(np.arange(8) + 0.5) for name in columns} | {
        "stage_said": tuple(np.arange(8) / 2 + 0.25)
    }
    spec = ss.PromptSpec(
        tuple(ss.Digit(name, "cohort") for name in columns), cuts=cuts, window=1, look_ahead=0
    )
    index = pd.MultiIndex.from_product(
        [[0], ["A"], range(len(said))], names=["subject", "recording", "epoch"]
    )
    reader = Reader(tokenizer, spec.labels)
    proba = ss.Stager(reader, tokenizer, spec).predict_proba(
        pd.DataFrame(columns, index=index), windows_per_batch=256
    )
    measured = np.flatnonzero(~np.isnan(said))
    np.testing.assert_array_equal(ss.most_probable_stages(proba)[measured], said[measured])
    return [epoch for epoch in measured if reader.times_read[epoch] == 2]


@pytest.fixture(scope="module")
def long_stages(table):
    """The stages of the night, with 700 epochs of wake before and 800 after it."""
    return np.concatenate([np.zeros(700), table["stage"], np.zeros(800)])


def test_a_night_in_hours_of_wake_is_read_a_second_time_on_its_own(long_stages, smollm2_tokenizer):
    twice = read_by_number(long_stages, smollm2_tokenizer)
    asleep = np.flatnonzero(long_stages > 0)
    assert twice == list(range(twice[0], twice[-1] + 1))
    assert asleep[0] - 70 <= twice[0] <= asleep[0] and asleep[-1] <= twice[-1] <= asleep[-1] + 70


def test_an_ordinary_night_is_read_once(table, smollm2_tokenizer):
    """Even if hours of it are wake, as long as there is sleep before and after."""
    stages = table["stage"].to_numpy().copy()
    stages[300:550] = 0
    assert read_by_number(stages, smollm2_tokenizer) == []
    assert read_by_number(0 * stages, smollm2_tokenizer) == []  # nobody slept: there is nothing to read again


def test_dead_epochs_are_no_sleep(long_stages, smollm2_tokenizer):
    """An electrode that comes off in the morning does not prolong the night that is read again."""
    off = long_stages.copy()
    off[1700:] = np.nan
    with pytest.warns(UserWarning, match="641 of 2341"):
        twice = read_by_number(off, smollm2_tokenizer)
    assert twice == read_by_number(long_stages, smollm2_tokenizer)


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
        proba = stager.predict_proba(dead_table, stride=stride)
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


# ---------------------------------------------------------------- hints


@pytest.fixture(scope="module")
def listener(tiny_base):
    """A base model that sees both ways, with examples before its windows."""
    spec = ss.PromptSpec(digits=DIGITS, window=12, examples=4)
    return ss.Stager.from_base(spec, tiny_base, nf4=False)


@pytest.fixture(scope="module")
def known(table):
    given = pd.Series(-1, table.index)
    given.iloc[[3, 50, 51, 400]] = [4, 1, 1, 3]
    return given


def test_a_hint_has_its_stage_and_the_model_reads_it_for_the_others(listener, table, known):
    unhinted, hinted = listener.predict_proba(table), listener.predict_proba(table, known)
    given = (known >= 0).to_numpy()
    np.testing.assert_array_equal(hinted[given], np.eye(5)[known[given]])
    np.testing.assert_allclose(hinted.sum(axis=1), 1, atol=1e-6)
    assert ((hinted - unhinted)[~given].abs().max(axis=1) > 1e-6).mean() > 0.99  # as examples, everywhere
    pd.testing.assert_frame_equal(listener.predict_proba(table, known[given]), hinted)  # a part is enough


def test_no_hint_is_the_same_as_none_at_all(listener, table):
    nothing = pd.Series(-1, table.index)
    pd.testing.assert_frame_equal(listener.predict_proba(table, nothing), listener.predict_proba(table))


def test_hints_stay_in_their_night(listener, table, known):
    two = pd.concat([table.iloc[:400], table.iloc[:400].rename({0: 1}, level="subject")])
    here = known.iloc[:400].reindex(two.index, fill_value=-1)
    second = two.index.get_level_values("subject") == 1
    hinted, unhinted = listener.predict_proba(two, here), listener.predict_proba(two)
    np.testing.assert_allclose(hinted[second], unhinted[second], atol=1e-6)


def test_a_hint_is_certain_for_temperature_and_transitions_too(listener, table, known):
    even = np.full((5, 5), 0.2)
    prior = HypnogramPrior(tuple(map(tuple, even)), (0.2,) * 5, temperature=3.0, strength=0.5)
    reader = ss.Stager(listener.model, listener.tokenizer, listener.spec, prior=prior)
    hinted = reader.predict_proba(table, known)
    given = (known >= 0).to_numpy()
    np.testing.assert_array_equal(hinted[given], np.eye(5)[known[given]])


def test_hints_that_are_none_are_refused(listener, stager, table, known):
    with pytest.raises(ValueError, match="an epoch that the table does not have"):
        listener.predict_proba(table.iloc[:300], known)
    with pytest.raises(ValueError, match="7 is not a stage code"):
        listener.predict_proba(table, known.replace(4, 7))
    with pytest.raises(ValueError, match="known is a dict, expected a Series of stage codes"):
        listener.predict_proba(table, known.to_dict())
    with pytest.raises(ValueError, match="'REM' is not a stage code.*Names become codes"):
        listener.predict_proba(table, pd.Series("REM", table.index[:3]))
    with pytest.raises(ValueError, match="from left to right"):
        stager.predict_proba(table, known)
