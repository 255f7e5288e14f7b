"""Exercises that check themselves: ``ss.workshop.check("02.1", answer)`` says what is wrong with an answer.

The tasks stand in ``notebooks/exercises``, one possible answer each in ``notebooks/solutions``. A check
computes the right answer, from the shipped night or from data made for it, and knows the usual mistakes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from ..dataset.digits import PromptSpec, default_digits, night_text
from ..dataset.splits import split_blocks
from ..dataset.windows import label_token_ids
from ..features.catalogue import INDEX
from ..features.extract import extract_features
from ..features.time_domain import hjorth_features, moment_features, time_features
from ..finetuning.settings import OFFLINE_MODEL
from ..recordings.recording import load_demo

# The check of exercise 01.1 is the function _check_01_1. Its docstring is the exercise's title. It
# returns what was learned, or raises a Hint. _EXERCISES, at the end, collects them.


class Hint(Exception):
    """What is wrong with an answer, in words for the student."""


@dataclass(frozen=True)
class Verdict:
    """What :func:`check` found: true if the answer passed; a notebook shows it as one line."""

    exercise: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{self.exercise} {'passed' if self.passed else 'not yet'}: {self.message}"


def check(exercise: str, answer: Any) -> Verdict:
    """Check a student's answer.

    Parameters
    ----------
    exercise : str
        Its number: ``"02.1"`` is the first of notebook 2.
    answer : object
        What the task asks for: a value, or the function itself.

    Returns
    -------
    Verdict
        Whether the answer passed, and what was learned or what is wrong.

    Raises
    ------
    ValueError
        If there is no such exercise.
    FileNotFoundError
        In 03.3 and 04.3, if the offline model was not prepared (:func:`sleepstage.prepare`).
    """
    if exercise not in _EXERCISES:
        raise ValueError(f"there is no exercise {exercise!r}; there are {', '.join(_EXERCISES)}")
    try:
        return Verdict(exercise, True, _EXERCISES[exercise](answer))
    except Hint as hint:
        return Verdict(exercise, False, str(hint))


def exercises() -> dict[str, str]:
    """Give the title of each exercise, by its number.

    >>> exercises()["01.1"]
    'Awake in the night'
    """
    return {number: str(test.__doc__).rstrip(".") for number, test in _EXERCISES.items()}


def _need(condition: Any, hint: str) -> None:
    if not condition:
        raise Hint(hint)


def _number(answer: Any) -> float:
    _need(answer is not None, "put your answer in place of the stub's None.")
    _need(isinstance(answer, int | float | np.number), f"expected a number, got {answer!r}.")
    return float(answer)


def _run(function: Any, *arguments: Any, given: str, shape: tuple[int, ...] | None = None) -> Any:
    """Call a student's function on copies of the arguments, and check the result's shape if one is given."""
    _need(callable(function), f"expected a function, its name without parentheses, got {function!r}.")
    try:
        result = function(*copy.deepcopy(arguments))
        found = result if shape is None or result is None else np.asarray(result, dtype=float)
    except Exception as error:
        raise Hint(f"your function, given {given}, stopped: {type(error).__name__}: {error}") from error
    _need(found is not None, "your function returns nothing: fill in the stub; is a return missing?")
    _need(shape in (None, np.shape(found)), f"expected shape {shape} for {given}, got {np.shape(found)}.")
    return found


@lru_cache
def shipped_night() -> tuple[np.ndarray, np.ndarray]:
    """Read the shipped night once: its signal in µV, (n_epochs, 3000), and its stages, (n_epochs,)."""
    night = load_demo()
    return night.eeg_uv, np.asarray(night.stages)


@lru_cache
def shipped_table() -> pd.DataFrame:
    """Compute the shipped night's features once."""
    return extract_features(load_demo())


def _by_epoch(function: Any) -> np.ndarray:
    """Run a function on the night, and on its epochs in another order: only the signal may count."""
    uv, _ = shipped_night()
    order = np.random.default_rng(1).permutation(len(uv))
    given = f"{len(uv)} epochs of 3000 samples at 100 Hz"
    values, again = (_run(function, x, 100.0, given=given, shape=(len(uv),)) for x in (uv, uv[order]))
    _need(np.isfinite(values).all(), f"epoch {np.isfinite(values).argmin()} got NaN or an infinite value.")
    same = np.isclose(again, values[order], rtol=1e-3).mean() > 0.99
    _need(same, "in another order the epochs got other values. Look at the given signal, not at the night.")
    return values


def _check_01_1(answer: Any) -> str:
    """Awake in the night."""
    small = np.array([-1, 0, 0, 0, 1, 2, 0, -1, 0, 3, 4, 0, 0, 0, 0, -1])
    for given, stages in {"a small hypnogram": small, "the night": shipped_night()[1]}.items():
        found = float(_run(answer, stages, given=f"{given}, {stages.tolist()[:16]} …", shape=()))
        awake, (asleep,) = stages == 0, np.nonzero(stages > 0)
        begin, end = asleep[0], asleep[-1]
        right = awake[begin:end].sum() / 2
        mistakes = {
            2 * right: "is the number of epochs; an epoch is half a minute.",
            (stages[begin:end] < 1).sum() / 2: "counts -1 too: nobody scored that epoch, it may be sleep.",
            awake.sum() / 2: "is all wake. Is the time before she fell asleep cut off? (-1 is not sleep.)",
            awake[begin:].sum() / 2: "counts the time after she woke up for good.",
            awake[:end].sum() / 2: "counts the time before she fell asleep.",
        }
        advice = mistakes.get(found, "is not right: count W between the first and the last epoch of sleep.")
        _need(found == right, f"for {given}, {found:g} {advice}")
    return f"she lay awake for {right:g} minutes in the middle of the night."


def _check_01_2(answer: Any) -> str:
    """Volts, millivolts or microvolts."""
    usual = shipped_night()[0][:240].astype(float).ravel()
    loose = np.where(np.arange(usual.size) // 60_000 == 5, 1e5, usual)
    nights = {
        "the first two hours of the night": usual,
        "a person whose EEG is a third as large": usual / 3,
        "a child, whose EEG is three times as large": 3 * usual,
        "a night in which the electrode was loose for ten minutes (100 mV)": loose,
        "an amplifier that adds a constant of 20 mV": usual + 20_000,
    }
    for who, right in nights.items():
        for unit, factor in {"V": 1e-6, "mV": 1e-3, "µV": 1.0}.items():
            found = _run(answer, factor * right, given=f"{who}, in {unit}", shape=right.shape)
            ratio = np.ptp(found) / np.ptp(right)
            _need(np.isclose(ratio, 1), f"for {who}, in {unit}, your values are {ratio:.3g} times too large.")
            _need(np.allclose(found, right), "multiply by one number; do nothing else to the samples.")
    return "each unit is recognized, in every person, with an offset and with an artefact."


def _check_01_3(answer: Any) -> str:
    """A rule for deep sleep."""
    said, deep = _by_epoch(answer), shipped_night()[1] == 3
    _need(np.isin(said, (0, 1)).all(), f"expected True or False for each epoch, got {said[0]:g} for one.")
    kappa = cohen_kappa_score(deep, said == 1)
    hits = f"it finds {said[deep].sum():g} of {deep.sum()} epochs of N3, and {said[~deep].sum():g} others"
    advice = "It is too strict." if said.sum() < deep.sum() else "Too lenient: blinks are large as well."
    _need(kappa >= 0.7, f"{hits}: kappa {kappa:.2f}, wanted 0.70. {advice}")
    return f"{hits}: kappa {kappa:.2f}."


def _check_02_1(answer: Any) -> str:
    """Two wires swapped."""
    _need(isinstance(answer, list | tuple | set), f"expected a list of names, got {answer!r}.")
    both = (shipped_night()[0][:9], -shipped_night()[0][:9])
    before, after = ({**time_features(x), **hjorth_features(x), **moment_features(x)} for x in both)
    changed = {name for name in before if not np.allclose(before[name], after[name], rtol=0.02)}
    for name in answer:
        _need(name in before, f"{name!r} is none of {', '.join(before)}.")
        _need(name in changed, f"{name} stays: it is {before[name][0]:.4g} with either sign.")
    missed = len(changed) - len(set(answer))
    _need(not missed, f"none is wrong, {missed} missing: what else knows which way is up?")
    return "only the mean, the two extremes and skewness know which way is up."


def _check_02_2(answer: Any) -> str:
    """The frequency below which a share of the power lies."""
    for rate in (100.0, 200.0):
        seconds = np.arange(30 * rate) / rate
        waves = [amp * np.sin(2 * np.pi * hz * seconds) for amp, hz in ((30, 6), (15, 20), (30, 45))]
        given = f"sines of 30 µV at 6 Hz, 15 µV at 20 Hz and 30 µV at 45 Hz, sampled at {rate:g} Hz"
        for share, right in ((0.75, 6), (0.95, 20)):
            found = float(_run(answer, sum(waves), rate, share, given=given, shape=()))
            _need(abs(found - 45) > 1, f"{found:g} Hz: leave out what lies outside 0.5 to 40 Hz.")
            _need(share > 0.9 or abs(found - 20) > 1, f"{found:g} Hz for 75 %: power is amplitude squared.")
            wanted = f"expected {right} Hz for {share:.0%} of the power of {given}"
            _need(abs(found - right) < 0.5, f"{wanted}, got {found:.4g}.")
    return "four fifths of the power lie at 6 Hz, the rest at 20 Hz, whatever the sampling rate."


def _check_02_3(answer: Any) -> str:
    """A feature of your own that tells N1 from REM, at any gain."""
    values, (uv, stages) = _by_epoch(answer), shipped_night()
    pair = np.isin(stages, (1, 4))
    _need(np.ptp(values[pair]) > 0, "every epoch got the same value.")
    louder = _run(answer, 2 * uv, 100.0, given="the night at twice the gain", shape=values.shape)
    change = f"at twice the gain, {values[0]:.4g} becomes {louder[0]:.4g}"
    same = np.isclose(louder, values, rtol=1e-3).mean() > 0.99
    _need(same, f"{change}. Divide by something that grows with the gain as well.")
    auc = roc_auc_score(stages[pair] == 4, values[pair])
    advice = "Where do their median spectra in notebook 2 differ? And by what do you divide?"
    _need(abs(auc - 0.5) >= 0.3, f"AUC {auc:.2f}; wanted 0.80 or more, or 0.20 or less. {advice}")
    return f"AUC {auc:.2f} at any gain, on this one night."


def _check_03_1(answer: Any) -> str:
    """What a text costs."""
    tokens, given = len(default_digits(shipped_table())) + 1, _number(answer)
    right = 8192 // tokens
    _need(given not in (right, right / 2), f"{given:g} is epochs or minutes; the question is for hours.")
    _need(given != 8192 // (tokens - 1) / 120, "the colon is a token as well.")
    _need(abs(given - right / 120) < 0.01, f"not {given:g}. How many epochs of {tokens} tokens fit in 8192?")
    return f"{right} epochs fit, {right / 120:g} hours."


def _check_03_2(answer: Any) -> str:
    """A split without leakage."""
    epochs = [("ABCDEFGH"[n // 2], f"night {n}", epoch) for n in range(16) for epoch in range(30)]
    table = shipped_table()[:480].set_axis(pd.MultiIndex.from_tuples(epochs, names=INDEX))
    sides = np.asarray(_run(answer, table, given="8 people with 2 nights of 30 epochs each"))
    _need(sides.shape == (480,), f"expected one word for each of 480 epochs, got shape {sides.shape}.")
    _need(np.isin(sides, ["train", "test"]).all(), f"expected 'train' or 'test', got {str(sides[0])!r}.")
    marked = pd.Series(sides == "test", index=table.index)
    _need(0.1 <= marked.mean() <= 0.5, f"{marked.mean():.0%} are for the test; expected 10 to 50 %.")
    cut = marked.groupby(["subject", "recording"]).nunique().gt(1).sum()
    _need(not cut, f"{cut} of 16 nights are on both sides: a test epoch has its neighbour in training.")
    known = marked.groupby("subject").nunique().gt(1).sum()
    _need(not known, f"{known} of 8 people have one night in training, one in the test. Draw people.")
    return f"{marked.groupby('subject').first().sum()} of 8 people are for the test, with both nights."


def _check_03_3(answer: Any) -> str:
    """A night in half the tokens that can still be read."""
    from ..finetuning.base_model import load_tokenizer

    _need(isinstance(answer, tuple) and len(answer) == 2, "expected two functions, (write, read).")
    levels = np.random.default_rng(3).integers(1, 10, size=(200, 12))
    text = _run(answer[0], levels, given="levels 1 to 9 of shape (200, 12)")
    _need(isinstance(text, str), f"expected write to give a text, got {type(text).__name__}.")
    found = np.asarray(_run(answer[1], text, given="your text"))
    _need(found.shape == (200, 12), f"read gives shape {found.shape}, not (200, 12); leave nothing out.")
    off = np.abs(found - levels).max()
    _need(off <= 1, f"a level comes back {off:g} off, expected 1 at most.")
    tokens = len(load_tokenizer(OFFLINE_MODEL)(text, add_special_tokens=False).input_ids) / 200
    _need(tokens <= 7, f"{tokens:g} tokens an epoch, expected 7 at most; night_text takes 13.")
    return f"{tokens:g} tokens an epoch instead of 13, and no level is more than {off:g} off."


def _check_04_1(answer: Any) -> str:
    """The rank that fits."""
    shapes = [(576, 576), (192, 576), (1536, 576), (576, 1536)]
    a_rank, frozen = sum(n_out + n_in for n_out, n_in in shapes), sum(n_out * n_in for n_out, n_in in shapes)
    inner, outer = sum(n_in for _, n_in in shapes), sum(n_out for n_out, _ in shapes)
    for megabytes in (2, 0.5):
        given, room = f"layers {shapes} (out, in) and {megabytes} MB", megabytes * 1e6
        found = float(_run(answer, shapes, megabytes, given=given, shape=()))
        right = room // (4 * a_rank)
        _need(found not in (room // a_rank, room / a_rank), "a number in float32 takes four bytes.")
        one_side = (room // (4 * inner), room // (4 * outer))
        _need(found not in one_side, "that has room for one of A and B only: A is r × n_in, B is n_out × r.")
        _need(found != room // (4 * frozen), "W is frozen and not in the adapter; only A and B are.")
        _need(found != room / (4 * a_rank), f"{found:.4g} is no rank: a rank is a whole number.")
        _need(found <= right, f"rank {found:g} for {given}: {4 * a_rank * found / 1e6:.3g} MB, too much.")
        _need(found == right, f"rank {found:g} for {given} fits, but a larger one does too.")
    return f"the adapter grows by {4 * a_rank / 1e6:.3g} MB with each rank, whatever the frozen weights are."


def _check_04_2(answer: Any) -> str:
    """Where the loss looks."""
    stages = np.array([0, 0, 1, -1, 2, 3, 3, 4])
    for ahead in (2, 0):
        given = f"the stages {stages.tolist()} and a look-ahead of {ahead}"
        found = _run(answer, stages, ahead, given=given, shape=(8,))
        _need(-1 not in found, "-1 is an unscored epoch; there is nothing to learn, so its label is -100.")
        late, early = (np.where(s < 0, -100, s) for s in (np.roll(stages, ahead), np.roll(stages, -ahead)))
        right = np.where(np.arange(8) < ahead, -100, late)
        round_the_end = (found[:2] == late[:2])[right[:2] == -100].any()
        _need(not round_the_end, "the last epochs came round to the start.")
        other_way = ahead and (found[:6] == early[:6]).all()
        _need(not other_way, "the wrong way: line t is for epoch t - look_ahead.")
        _need((found == right).all(), f"for {given} expected {right.tolist()}, got {found.tolist()}.")
    return "a line answers for an epoch that has been read with what follows it."


def _check_04_3(answer: Any) -> str:
    """Label words without a favourite."""
    import torch

    from ..finetuning.base_model import load_base, load_tokenizer

    _need(np.shape(answer) == (5,), f"expected a list of five words, got {answer!r}.")
    tokenizer = load_tokenizer(OFFLINE_MODEL)
    try:
        words = label_token_ids(answer, tokenizer)
    except ValueError as error:
        raise Hint(f"{error}") from error
    short = [word for word in answer if not (word.strip().isalpha() and len(word.strip()) > 2)]
    _need(not short, f"{(short or [''])[0]!r} is no word of three letters or more; people will read these.")
    levels = PromptSpec(default_digits(shipped_table())).levels(shipped_table())[300:340]
    ids = tokenizer(night_text(levels), add_special_tokens=False, return_tensors="pt").input_ids
    model = load_base(OFFLINE_MODEL, nf4=False)
    with torch.inference_mode():
        logits = model(ids.to(model.device)).logits[0, ids[0] == ids[0, -1]][:, words]
    shares = pd.Series(logits.float().softmax(dim=-1).mean(dim=0).cpu().numpy(), index=answer)
    (word, share), (last, least) = (shares.idxmax(), shares.max()), (shares.idxmin(), shares.min())
    _need(share < 0.4, f"the untuned model gives {word!r} {share:.0%} on average; wanted under 40 %.")
    _need(least > 0.1, f"the untuned model gives {last!r} only {least:.0%}; wanted over 10 %.")
    return f"from {least:.0%} for {last!r} to {share:.0%} for {word!r}, so there is less to unlearn."


def _check_05_1(answer: Any) -> str:
    """Four stages instead of five."""
    matrix = np.random.default_rng(5).integers(1, 50, size=(5, 5))
    found = np.asarray(_run(answer, matrix, given="a confusion matrix of 5 × 5 counts"))
    _need(sorted(found.shape) != [4, 5], "one side is merged only; expert and model both have light sleep.")
    to_do = "add N2's row to N1's, and N2's column to N1's; W, N3 and REM keep theirs"
    _need(found.shape == (4, 4), f"expected shape (4, 4), got {found.shape}: {to_do}.")
    for lost in (1, 2):
        thrown_away = np.delete(np.delete(matrix, lost, 0), lost, 1)
        _need((found != thrown_away).any(), f"N{lost}'s epochs are gone. Do not delete them: {to_do}.")
    right = np.add.reduceat(np.add.reduceat(matrix, [0, 1, 3, 4], axis=0), [0, 1, 3, 4], axis=1)
    names = ("W", "light", "N3", "REM")
    for i, j in np.argwhere(found != right)[:1]:
        where = f"expert {names[i]}, model {names[j]}: {found[i, j]:g} instead of {right[i, j]}"
        raise Hint(f"{where}. {matrix.sum()} epochs went in, {found.sum():g} came out. The order is {names}.")
    return "N1 taken for N2 no longer counts as an error; say so when you compare with five stages."


def _check_05_2(answer: Any) -> str:
    """An interval for other people."""
    rng, person = np.random.default_rng(7), np.repeat(np.arange(12), 200)
    right = rng.random(2400) < np.linspace(0.5, 0.95, 12)[person]
    low, high = _run(answer, right, person, given="2400 epochs of 12 people", shape=(2,))
    means = right.reshape(12, 200).mean(axis=1)
    _need(low < means.mean() < high, f"{low:.3f} to {high:.3f} leaves out the accuracy, {means.mean():.3f}.")
    ratio = (high - low) / np.ptp(np.quantile(rng.choice(means, (4000, 12)).mean(axis=1), [0.025, 0.975]))
    _need(ratio > 0.5, f"{high - low:.3f} wide is too sure: resample people, not epochs, which are alike.")
    _need(ratio < 1.5, f"{high - low:.3f} is too wide: it is the mean's interval, not the spread of people.")
    return f"{low:.2f} to {high:.2f}: twelve people say less than 2400 epochs seem to."


def _check_05_3(answer: Any) -> str:
    """A hypnodensity that knows that stages last."""
    columns = ["std_uv", "mobility", "delta_power_rel", "sigma_power_rel", "gamma_power_uv2"]
    values, stages = np.log(shipped_table()[columns].to_numpy()), shipped_table()["stage"].to_numpy()
    train, test = (split_blocks(shipped_table()).to_numpy() == side for side in ("train", "test"))
    proba = LinearDiscriminantAnalysis().fit(values[train], stages[train]).predict_proba(values)
    found = _run(answer, proba, given="a hypnodensity of shape (841, 5)", shape=proba.shape)
    _need(np.allclose(found.sum(axis=1), 1) and found.min() >= 0, "each row must be shares that sum to 1.")
    before, after = (cohen_kappa_score(stages[test], p[test].argmax(axis=1)) for p in (proba, found))
    gain = f"kappa on the test blocks was {before:.3f} and is {after:.3f}"
    _need(after < 0.95, f"{gain}: better than experts agree. Do night.stages play a part?")
    _need(after >= before + 0.02, f"{gain}; wanted {before + 0.02:.3f}. Do both neighbours have a say?")
    return f"{gain}."


_EXERCISES: dict[str, Callable[[Any], str]] = {
    name.removeprefix("_check_").replace("_", "."): test
    for name, test in [*globals().items()]
    if name.startswith("_check_")
}
