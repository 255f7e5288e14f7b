"""Windows decoded back to text and compared with the night they were cut from; tokens by two tokenizers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sleepstage.dataset.digits import Digit, PromptSpec, night_text
from sleepstage.dataset.windows import (
    covering_starts,
    covering_windows,
    cut_windows,
    label_token_ids,
    line_tokens,
    tokenizer_hash,
)
from sleepstage.finetuning.training_texts import training_windows

SPEC = PromptSpec(tuple(Digit("x") for _ in range(4)), window=40, look_ahead=6, bidirectional=False)
ANSWERED = SPEC.window - SPEC.look_ahead
LENGTHS = [1, SPEC.look_ahead, SPEC.window - 1, SPEC.window, SPEC.window + 1, 200]


@pytest.fixture(scope="module", params=["smollm2_tokenizer", "llama3_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def numbered_night(n_epochs):
    """Levels whose lines are the epochs' numbers from 1, so that every line is known by its text."""
    lines = [f"{epoch:04}" for epoch in range(1, n_epochs + 1)]
    return lines, np.array([list(map(int, line)) for line in lines], dtype=np.int8)


@pytest.mark.filterwarnings("ignore:.*less than two hours")
@pytest.mark.parametrize(
    ("kept", "settings", "window"),
    [
        ([1, 1, 1, 1], {}, 80),
        ([1, 1, 1, 0], {}, 3),
        ([1, 0], {}, 1),
        ([1, 0], {"look_ahead": 2}, 3),
        ([1, 0], {"window": 40}, 40),
    ],
)
def test_windows_are_no_longer_than_runs_of_epochs(kept, settings, window, smollm2_tokenizer, recwarn):
    """Files of the contest are missing; windows of 80 lines would hold a line or two and padding."""
    index = pd.MultiIndex.from_product([[1], ["A"], range(400)], names=["subject", "recording", "epoch"])
    whole = pd.DataFrame({"x": np.random.default_rng(0).random(400)}, index).assign(stage=0)
    table = whole[np.resize(kept, 400).astype(bool)]
    spec = PromptSpec.fit(table, [Digit("x")], **settings)
    assert (spec.window, spec.examples) == (window, 20 if window >= 40 else 0)
    told = [str(warning.message) for warning in recwarn if "gap" in str(warning.message)]
    assert len(told) == (window < 40)
    assert all(f"runs of at most {sum(kept)}" in text for text in told)
    (windows,) = covering_windows(table, spec, smollm2_tokenizer, spec.default_stride)
    assert set(windows.epochs[windows.epochs >= 0]) == set(range(len(table)))
    if spec.reads_hints:
        known = np.where(np.arange(len(table)) % 4, -1, table["stage"])
        hinted = covering_windows(table, spec, smollm2_tokenizer, spec.default_stride, known)
        answered = np.concatenate([part.epochs.ravel() for part in hinted])
        assert set(answered[answered >= 0]) == set(np.flatnonzero(known < 0))


@pytest.mark.parametrize("n_epochs", LENGTHS)
def test_every_line_is_where_it_should_be_and_answers_for_the_right_epoch(n_epochs, tokenizer):
    night, levels = numbered_night(n_epochs)
    for stride, offset in [(ANSWERED, 0), (ANSWERED, ANSWERED - 1), (17, 5), (1, 0)]:
        starts = covering_starts(n_epochs, SPEC, stride, offset)
        windows = cut_windows(levels, SPEC, tokenizer, starts)
        texts = tokenizer.batch_decode(windows.input_ids, skip_special_tokens=True)
        assert len(texts) == len(starts) == len(windows.epochs)
        for start, text, epochs in zip(starts, texts, windows.epochs, strict=True):
            *lines, end = text.split(":")
            known = night[start : start + SPEC.window]
            assert (lines, end) == (known + ["0000"] * (SPEC.window - len(known)), "")
            for at, epoch in enumerate(epochs):
                before = lines[at - SPEC.look_ahead] if at >= SPEC.look_ahead else "0000"
                assert before == (night[epoch] if epoch >= 0 else "0000")
        assert set(windows.epochs.ravel()) >= set(range(n_epochs))


@pytest.mark.parametrize("n_epochs", LENGTHS)
def test_there_is_one_answer_position_a_line_the_same_in_all_windows(n_epochs, tokenizer):
    _, levels = numbered_night(n_epochs)
    windows = cut_windows(levels, SPEC, tokenizer, covering_starts(n_epochs, SPEC, 17))
    (colon,) = tokenizer(":", add_special_tokens=False).input_ids
    assert windows.positions.shape == (SPEC.window,) == windows.epochs.shape[1:]
    for ids in windows.input_ids:
        assert np.flatnonzero(ids == colon).tolist() == windows.positions.tolist()
        assert ids[0] == tokenizer.bos_token_id
    assert windows.positions[-1] == windows.input_ids.shape[1] - 1


def test_without_a_first_token_of_its_own_the_text_begins_with_its_first_line(llama3_tokenizer):
    _, levels = numbered_night(3)
    with_bos = cut_windows(levels, SPEC, llama3_tokenizer, np.array([0]))
    plain = type(llama3_tokenizer)(tokenizer_object=llama3_tokenizer.backend_tokenizer)
    without = cut_windows(levels, SPEC, plain, np.array([0]))
    np.testing.assert_array_equal(without.input_ids, with_bos.input_ids[:, 1:])
    np.testing.assert_array_equal(without.positions, with_bos.positions - 1)


def test_a_line_without_a_digit_is_read_but_no_line_answers_for_it(smollm2_tokenizer):
    _, levels = numbered_night(60)
    starts = covering_starts(60, SPEC, ANSWERED)
    whole = cut_windows(levels, SPEC, smollm2_tokenizer, starts)
    levels[[20, 59]] = 0
    holed = cut_windows(levels, SPEC, smollm2_tokenizer, starts)
    assert set(holed.epochs.ravel()) == {-1, *range(60)} - {20, 59}
    same = ~np.isin(whole.epochs, [20, 59])
    np.testing.assert_array_equal(holed.epochs[same], whole.epochs[same])
    assert "".join(smollm2_tokenizer.batch_decode(holed.input_ids[0])).split(":")[20] == "0000"


@pytest.mark.filterwarnings("ignore:.*less than two hours:UserWarning")
def test_epochs_that_cannot_be_measured_are_not_learned_from(dead_table, smollm2_tokenizer):
    spec = PromptSpec((Digit("std_uv"), Digit("mobility")))
    dead = dead_table["std_uv"].isna().to_numpy()
    table = dead_table.assign(stage=np.where(dead, 4, 2).astype(np.int8))
    texts = training_windows(table, spec, smollm2_tokenizer, 40)
    assert {int(label) for row in texts["labels"] for label in row} == {-100, 2}
    with pytest.raises(ValueError, match="scored and has a feature"):
        training_windows(table[dead], spec, smollm2_tokenizer, 1)


@pytest.mark.parametrize("look_ahead", [0, 1, SPEC.window - 1])
def test_any_look_ahead_answers_every_epoch_once_at_full_stride(look_ahead, smollm2_tokenizer):
    spec = PromptSpec(SPEC.digits, window=SPEC.window, look_ahead=look_ahead)
    stride = spec.window - look_ahead
    n_epochs = 3 * stride
    windows = cut_windows(
        numbered_night(n_epochs)[1], spec, smollm2_tokenizer, covering_starts(n_epochs, spec, stride)
    )
    assert sorted(windows.epochs[windows.epochs >= 0]) == list(range(n_epochs))


def test_starts_are_a_stride_apart_and_cover_every_epoch_at_any_offset():
    for n_epochs in (1, 33, 34, 35, 75, 841):
        for stride in (1, 9, ANSWERED):
            for offset in range(stride):
                starts = covering_starts(n_epochs, SPEC, stride, offset)
                answered = np.unique(starts[:, None] + np.arange(ANSWERED))
                assert set(range(n_epochs)) <= set(answered)
                assert (np.diff(starts) <= stride).all()
                assert (starts[1:-1] % stride == -offset % stride).all()


@pytest.mark.parametrize("stride", [-1, 0, ANSWERED + 1])
def test_a_stride_that_would_leave_epochs_out_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride is {stride} .* = {ANSWERED} "):
        covering_starts(200, SPEC, stride)


# ---------------------------------------------------------------- hints

HINTED = PromptSpec(SPEC.digits, window=40, examples=5)


def test_a_given_line_ends_in_its_label_word_and_is_not_asked(tokenizer):
    night, levels = numbered_night(100)
    known = np.full(100, -1)
    known[[3, 50]] = [2, 4]
    windows = cut_windows(levels, HINTED, tokenizer, np.array([0, 40, 60]), known)
    for ids, start, example in zip(
        windows.input_ids, [0, 40, 60], ["0051 REM", "0004 Medium", None], strict=True
    ):
        text = tokenizer.decode(ids[1:], skip_special_tokens=False)
        before, window = text.split(tokenizer.bos_token)
        examples = [*["0000:"] * 4, example] if example else [*["0000:"] * 3, "0004 Medium", "0051 REM"]
        assert before == "".join(examples)
        words = {3: " Medium", 50: " REM"}
        assert window == "".join(night[t] + words.get(t, ":") for t in range(start, start + 40))
    assert {3, 50}.isdisjoint(windows.epochs.ravel())
    assert set(windows.epochs.ravel()) == {-1, *range(100)} - {3, 50}
    ends = windows.input_ids[:, windows.positions]
    asked = windows.epochs >= 0
    assert set(ends[asked]) == set(tokenizer(":", add_special_tokens=False).input_ids)
    assert set(ends[~asked]) == {label_token_ids(HINTED.labels, tokenizer)[code] for code in (2, 4)}


def test_of_many_hints_those_at_equal_steps_are_the_examples(smollm2_tokenizer):
    night, levels = numbered_night(200)
    known = np.full(200, -1)
    known[40::16] = 0  # 40, 56, … 184: ten of them, at ten steps
    (ids,) = cut_windows(levels, HINTED, smollm2_tokenizer, np.array([0]), known).input_ids
    before = smollm2_tokenizer.decode(ids[1:]).split(smollm2_tokenizer.bos_token)[0]
    chosen = before.split(" Wake")[:-1]
    assert len(chosen) == 5
    assert (chosen[0], chosen[-1]) == (night[40], night[184])
    assert chosen == sorted(chosen)


def test_hints_beyond_a_gap_are_examples_and_those_of_other_nights_are_not(smollm2_tokenizer):
    index = pd.MultiIndex.from_tuples(
        [("A", "first", epoch) for epoch in [*range(30), *range(50, 60)]]
        + [("A", "second", epoch) for epoch in range(20)],
        names=["subject", "recording", "epoch"],
    )
    table = pd.DataFrame({"x": np.arange(len(index), dtype=float)}, index)
    known = np.full(len(index), -1)
    known[35] = 3  # after the gap
    with pytest.warns(UserWarning, match="less than two hours"):
        plain, hinted = covering_windows(
            table, PromptSpec((Digit("x"),), window=40), smollm2_tokenizer, 40, known
        )[::-1]
    assert len(hinted.input_ids) == 2 and len(plain.input_ids) == 1  # two runs of the first night; the second
    assert set(hinted.epochs.ravel()) == {-1, *range(40)} - {35}
    assert set(plain.epochs.ravel()) == {-1, *range(40, 60)}
    first_run = smollm2_tokenizer.decode(hinted.input_ids[0])
    assert first_run.count(" Deep") == 1


def test_a_model_that_reads_from_left_to_right_takes_no_hints(smollm2_tokenizer):
    _, levels = numbered_night(40)
    with pytest.raises(ValueError, match="from left to right"):
        cut_windows(levels, SPEC, smollm2_tokenizer, np.array([0]), np.full(40, 2))


# ---------------------------------------------------------------- tokens


def test_each_default_label_is_one_token_of_its_own(tokenizer):
    labels = PromptSpec((Digit("x"),)).labels
    ids = label_token_ids(labels, tokenizer)
    assert tuple(tokenizer.decode([token]) for token in ids) == labels
    assert len(set(ids)) == 5


def test_labels_of_several_tokens_or_one_token_twice_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"one token each; tokens counted: \{' N1': 2"):
        label_token_ids([" Wake", " N1", " N2", " N3", " REM"], tokenizer)
    with pytest.raises(ValueError, match="must be distinct"):
        label_token_ids([" Wake", " Light", " Light", " Deep", " REM"], tokenizer)


@pytest.mark.parametrize("n_digits", [1, 3, 8, 12, 13])
def test_an_epoch_is_the_expected_number_of_tokens(smollm2_tokenizer, llama3_tokenizer, n_digits):
    levels = np.random.default_rng(0).integers(0, 10, (200, n_digits))
    assert line_tokens(levels, smollm2_tokenizer).shape == (200, n_digits + 1)
    assert line_tokens(levels, llama3_tokenizer).shape == (200, -(-n_digits // 3) + 1)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 13).flatmap(
        lambda n_digits: arrays(
            np.int8, st.tuples(st.integers(1, 12), st.just(n_digits)), elements=st.integers(0, 9)
        )
    )
)
def test_lines_one_by_one_are_the_tokens_of_the_whole_text(tokenizer, levels):
    whole = tokenizer(night_text(levels), add_special_tokens=False).input_ids
    assert line_tokens(levels, tokenizer).ravel().tolist() == whole


def joining(pieces):
    """A tokenizer that knows some longer pieces, the longest first, and else single characters."""

    def tokens(text):
        found = []
        while text:
            piece = next((piece for piece in pieces if text.startswith(piece)), text[0])
            found.append(hash(piece))
            text = text[len(piece) :]
        return found

    return lambda text, **_: SimpleNamespace(
        input_ids=tokens(text) if isinstance(text, str) else [tokens(line) for line in text]
    )


@pytest.mark.parametrize("piece", ["12", ":1"], ids=["uneven lines", "across lines"])
def test_a_tokenizer_that_does_not_keep_epochs_apart_is_refused(piece):
    levels = np.array([[1, 2], [1, 3]])
    assert line_tokens(levels, joining([])).shape == (2, 3)
    with pytest.raises(ValueError, match="does not keep epochs apart"):
        line_tokens(levels, joining([piece]))


def test_the_hash_tells_tokenizers_apart(smollm2_tokenizer, llama3_tokenizer):
    hashes = [tokenizer_hash(tokenizer) for tokenizer in (smollm2_tokenizer, llama3_tokenizer)]
    assert hashes[0] != hashes[1]
    assert hashes[0] == tokenizer_hash(smollm2_tokenizer)
