"""Levels against pandas, counting and hand-worked cases; text read back."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sleepstage.dataset.digits import (
    DIGITS,
    Digit,
    PromptSpec,
    default_digits,
    epoch_in_words,
    night_text,
    parse_text,
)
from sleepstage.features.catalogue import describe_features

short_nights_are_fine = pytest.mark.filterwarnings("ignore:.*less than two hours")


def night(subject=1, recording="A", **columns):
    n_epochs = len(next(iter(columns.values())))
    index = pd.MultiIndex.from_product(
        [[subject], [recording], range(n_epochs)], names=["subject", "recording", "epoch"]
    )
    return pd.DataFrame(columns, index=index, dtype=float).assign(stage=np.int8(0))


def night_levels(values):
    return PromptSpec((Digit("x"),)).levels(night(x=values))[:, 0].tolist()


def random_levels(n_digits, max_epochs=12):
    shape = st.tuples(st.integers(1, max_epochs), st.just(n_digits))
    return arrays(np.int8, shape, elements=st.integers(0, 9))


# ---------------------------------------------------------------- levels within the night


def test_night_levels_are_the_nine_quantile_bins_of_pandas():
    values = np.random.default_rng(0).lognormal(size=9 * 40)
    assert night_levels(values) == (pd.qcut(values, 9, labels=False) + 1).tolist()


def test_levels_have_equal_shares_in_a_night_of_any_length():
    counts = np.bincount(night_levels(np.random.default_rng(0).normal(size=841)), minlength=10)
    assert counts[0] == 0
    assert set(counts[1:]) == {841 // 9, 841 // 9 + 1}


@short_nights_are_fine
def test_equal_values_get_the_middle_of_the_levels_they_span():
    assert night_levels([1, 1, 1, 1, 1, 1, *range(2, 14)]) == [2] * 6 + [4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert night_levels([3.5] * 7) == [5] * 7
    assert night_levels([2.0]) == [5]


@short_nights_are_fine
def test_missing_values_are_zero_and_do_not_count():
    values = np.arange(18.0)
    with_gaps = np.insert(values, [3, 10, 18], [np.nan, np.inf, -np.inf])
    levels = night_levels(with_gaps)
    assert [level for level in levels if level] == night_levels(values) == np.repeat(range(1, 10), 2).tolist()
    assert np.flatnonzero(np.array(levels) == 0).tolist() == np.flatnonzero(~np.isfinite(with_gaps)).tolist()
    assert night_levels([np.nan] * 4) == [0] * 4


@short_nights_are_fine
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=60),
    st.lists(st.floats(-1e6, 1e6), min_size=21, max_size=21, unique=True),
)
def test_night_levels_survive_any_monotone_change(values, scale):
    changed = np.sort(scale)[values]
    assert night_levels(changed) == night_levels(values)


@short_nights_are_fine
def test_each_recording_has_its_own_levels_in_any_order():
    x = np.random.default_rng(0).normal(size=50)
    nights = [night(1, "A", x=x), night(1, "B", x=100 * x + 7), night(2, "A", x=x[:20])]
    together = pd.concat(nights)
    spec = PromptSpec((Digit("x"),))
    expected = np.concatenate([spec.levels(table) for table in nights])
    np.testing.assert_array_equal(spec.levels(together), expected)
    order = np.random.default_rng(1).permutation(len(together))
    np.testing.assert_array_equal(spec.levels(together.iloc[order]), expected[order])


def test_a_short_night_is_warned_about_where_its_own_levels_are_used():
    tables = pd.concat([night(1, "long", x=range(240)), night(2, "short", x=range(239))])
    with pytest.warns(UserWarning, match="short has 239 epochs"):
        PromptSpec((Digit("x"),)).levels(tables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PromptSpec((Digit("x"),)).levels(tables.loc[[1]])
        PromptSpec.fit(tables, [Digit("x", "cohort")]).levels(tables)


# ---------------------------------------------------------------- levels over the cohort


@short_nights_are_fine
def test_cohort_cuts_are_the_ninths_of_the_training_table():
    train = pd.concat([night(1, x=range(0, 45)), night(2, x=range(45, 91))])
    spec = PromptSpec.fit(train, [Digit("x", "cohort"), Digit("x")])
    assert spec.cuts == {"x": pytest.approx([10, 20, 30, 40, 50, 60, 70, 80])}
    test = night(3, x=[-1e9, 9.9, 10.1, 45, 79.9, 80.1, 1e9, np.nan])
    assert spec.levels(test)[:, 0].tolist() == [1, 1, 2, 5, 8, 9, 9, 0]
    assert spec.cuts == PromptSpec.fit(train, spec.digits).cuts  # staging others has moved nothing


def test_a_value_on_a_cut_is_in_the_middle_of_what_it_spans():
    def levels(cuts, values):
        return PromptSpec((Digit("x", "cohort"),), {"x": cuts}).levels(night(x=values))[:, 0].tolist()

    assert levels((1, 2, 3, 4, 5, 6, 7, 8), [2.999, 3, 3.001]) == [3, 3, 4]
    assert levels((1, 3, 3, 3, 3, 6, 7, 8), [2.999, 3, 3.001]) == [2, 4, 6]
    assert levels((0,) * 8, [-1, 0, 1]) == [1, 5, 9]


def test_a_column_without_values_has_no_cuts():
    with pytest.raises(ValueError, match="x has no value in the training table"):
        PromptSpec.fit(night(x=[np.nan, np.inf]), [Digit("x", "cohort")])


# ---------------------------------------------------------------- columns


def test_ratios_are_of_two_columns_and_missing_over_zero():
    table = night(a=[1.0, 2, 0, 3, np.nan, 1], b=[2.0, 0, 0, 4, 1, np.nan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = Digit("a/b").values(table)
    np.testing.assert_array_equal(values, [0.5, np.nan, np.nan, 0.75, np.nan, np.nan])


@pytest.mark.parametrize("column", ["no_such", "a/no_such", "no_such/a"])
def test_a_missing_column_is_named_with_those_present(column):
    with pytest.raises(ValueError, match="no column 'no_such'.* It has: a, b"):
        Digit(column).values(night(a=[1.0], b=[1.0]))


def test_one_person_has_each_column_within_the_night(table):
    digits = default_digits(table)
    assert {digit.column for digit in digits} == {digit.column for digit in DIGITS}
    assert {digit.level for digit in digits} == {"night"} and len(set(digits)) == len(digits)
    levels = PromptSpec(digits).levels(table)
    assert (levels.shape, levels.dtype) == ((841, len(digits)), np.int8)
    delta = levels[:, digits.index(Digit("delta_log_power"))]
    assert delta[table["stage"] == 3].mean() > 7 > 5 > delta[table["stage"] == 0].mean()


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_no_gain_moves_a_digit(table, gain):
    """The columns in µV grow with the gain, those in µV² with its square; the others do not."""
    two = pd.concat([table, table.rename({0: 1}, level="subject")])
    spec = PromptSpec.fit(two, default_digits(two))
    power = describe_features()["unit"].map({"µV": 1, "µV²": 2}).fillna(0)
    louder = two.copy()
    for column, exponent in power.items():
        louder[column] *= gain**exponent
    assert not louder["rfft_delta_uv2"].equals(two["rfft_delta_uv2"])
    np.testing.assert_array_equal(spec.levels(louder), spec.levels(two))


def test_digits_follow_what_a_table_has(table):
    def digits(table):
        return [(digit.column, digit.level) for digit in default_digits(table)]

    two = pd.concat([table, table.rename({0: 1}, level="subject")])
    assert default_digits(two) == DIGITS
    shares = [name for name in table if name.endswith("_share")]
    fewer = two.drop(columns=shares)  # eight of the twelve are left
    assert default_digits(fewer) == tuple(digit for digit in DIGITS if "share" not in digit.column)
    few = night(1, mean_uv=[0.0, 0], var_uv2=[1.0, 4], rfft_delta_uv2=[1.0, 2], rfft_alpha_uv2=[1.0, 2])
    named = [("rfft_delta_uv2", "night"), ("rfft_alpha_uv2", "night"), ("rfft_delta_uv2/var_uv2", "night")]
    assert digits(few) == [*named, ("mean_uv", "night"), ("var_uv2", "night")]
    odd = night(**{f"f{k:02}": [0.0] for k in range(15)})
    assert default_digits(odd) == tuple(Digit(f"f{k:02}") for k in range(12))


# ---------------------------------------------------------------- differences to the night and to neighbours


def test_a_difference_to_the_median_is_over_its_own_night():
    nights = pd.concat([night(1, "A", x=[5, np.nan, 1, 3]), night(1, "B", x=[100, 300])])
    values = Digit("x", "median").values(nights)
    np.testing.assert_array_equal(values, [2, np.nan, -2, 0, -100, 100])


def test_a_difference_to_neighbours_is_to_the_mean_of_five_on_either_side_without_a_gap():
    x = np.random.default_rng(0).normal(size=40)
    x[7] = np.nan
    whole = night(x=x)
    table = whole.drop(index=whole.index[20])  # two runs: 0 to 19 and 21 to 39
    near = [x[max(0, t - 5) : min(20, t + 6)] for t in range(20)]
    near += [x[max(21, t - 5) : t + 6] for t in range(21, 40)]
    expected = np.delete(x, 20) - [np.nanmean(values) for values in near]
    np.testing.assert_allclose(Digit("x", "neighbours").values(table), expected, rtol=1e-12)


def test_one_column_may_be_compared_in_every_way():
    table = night(x=np.random.default_rng(0).normal(size=300))
    spec = PromptSpec.fit(table, [Digit("x", level) for level in ("night", "cohort", "median", "neighbours")])
    assert set(spec.cuts) == {"x", "x, median", "x, neighbours"}
    levels = spec.levels(table)
    assert all(32 <= count <= 35 for column in levels.T for count in np.bincount(column)[1:])  # 300 / 9


# ---------------------------------------------------------------- the specification


def test_a_specification_comes_back_from_its_file(tmp_path):
    digits = [Digit("x"), Digit("x", "cohort"), Digit("x/y", "cohort")]
    train = night(x=np.random.default_rng(0).normal(size=99), y=np.arange(99.0))
    spec = PromptSpec.fit(train, digits, labels=tuple("ABCDE"), window=24, look_ahead=3)
    spec.save(tmp_path / "prompt.json")
    assert PromptSpec.load(tmp_path / "prompt.json") == spec


@pytest.mark.parametrize("key", ["format_version", "definitions_version"])
@pytest.mark.parametrize("version", [0, 99, "1", None])
def test_another_version_of_the_format_or_of_the_features_is_refused(tmp_path, key, version):
    path = PromptSpec(digits=(Digit("std_uv"),)).save(tmp_path / "prompt.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: version}))
    with pytest.raises(ValueError, match=f"'{key}': {version!r}.*; make the prompt and the adapter anew"):
        PromptSpec.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"digits": ()}, "number of digits is 0, expected a whole number from 1"),
        ({"labels": (" Wake", " REM")}, "a different one for each"),
        ({"labels": (*" Wake Light Deep".split(), " REM", " REM")}, "a different one for each"),
        ({"labels": (*" Wake Light Deep".split(), " REM", 5)}, "a different one for each"),
        ({"window": 10**9}, "window is 1000000000, expected a whole number from 1 to 1000"),
        ({"window": 24.5}, "window is 24.5"),
        ({"cuts": {"x": (1.0, 2.0)}}, "cut points of x are .* expected 8 that rise"),
        ({"cuts": {"x": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 7.0)}}, "expected 8 that rise"),
        ({"cuts": {"x": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, float("nan"))}}, "a cut point of x is nan"),
        ({"window": 6, "look_ahead": 6}, "look_ahead .* is 6, expected a whole number from 0 to 5"),
        ({"look_ahead": -1}, "look_ahead .* is -1"),
        ({"examples": 10**9}, "examples is 1000000000, expected a whole number from 0 to 1000"),
        ({"examples": -1}, "examples is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptSpec(**{"digits": (Digit("x"),)} | settings)
    with pytest.raises(ValueError, match="level is 'subject'"):
        Digit("x", "subject")


@pytest.mark.parametrize("column", ["stage", "quality", "x/stage", "stage/x", "epoch", "subject"])
def test_a_digit_may_not_say_the_answer_or_the_clock(column, tmp_path):
    with pytest.raises(ValueError, match="digits come from features only"):
        Digit(column)
    path = PromptSpec(digits=(Digit("std_uv"),)).save(tmp_path / "prompt.json")
    path.write_text(path.read_text().replace("std_uv", column))
    with pytest.raises(ValueError, match="prompt.json is not a prompt.*digits come from features only"):
        PromptSpec.load(path)


@pytest.mark.parametrize("column", ["", "x/", "/x", "x/y/z", None])
def test_a_digit_is_a_feature_or_a_ratio_of_two(column):
    with pytest.raises(ValueError, match="expected a feature or a ratio of two"):
        Digit(column)


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"digits": value} for value in (7, [7], [{"column": "x", "colour": 1}], [{}], {"column": "x"})],
        *[{"cuts": value} for value in ([], {"x": 7}, {"x": ["a"] * 8})],
        *[{"labels": value} for value in (7, [[1], 2, 3, 4, 5], "ABCDE")],
        *[{"window": value} for value in ("40", None, True)],
        *[{"bidirectional": value} for value in ("no", 0, None)],
        {"colour": "red"},
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(wrong, tmp_path):
    path = PromptSpec(digits=(Digit("std_uv"),)).save(tmp_path / "prompt.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ValueError, match="prompt.json is not a prompt"):
        PromptSpec.load(path)


@pytest.mark.parametrize("call", [default_digits, PromptSpec(digits=(Digit("std_uv"),)).levels])
def test_a_recording_in_a_tables_place_is_refused_with_what_to_call(call, night):
    with pytest.raises(ValueError, match="got Recording, expected a feature table.*extract_features"):
        call(night)


# ---------------------------------------------------------------- text


def test_text_worked_by_hand():
    levels = np.array([[8, 3, 0], [1, 9, 5]], dtype=np.int8)
    assert night_text(levels) == "830:195:"
    assert night_text(levels, "\n") == "830:\n195:"


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 13).flatmap(random_levels), st.sampled_from(["", "\n", "\r\n", " "]))
def test_text_and_levels_are_inverse(levels, separator):
    back = parse_text(night_text(levels, separator), levels.shape[1])
    np.testing.assert_array_equal(back, levels)
    assert back.dtype == np.int8


def test_no_text_is_no_epoch():
    assert parse_text("", 3).shape == (0, 3)


@pytest.mark.parametrize(
    "text", ["83:", "8300:", "83x:", "-83:", "830", "830:19", "830::195:", "8.3:", "830;195:"]
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="expected 3 digits and a colon"):
        parse_text(text, 3)


def test_an_epoch_in_words_says_values_units_and_asks_for_a_stage(table):
    row = table.iloc[300]
    text = epoch_in_words(row, ["std_uv", "delta_power_rel", "edge_frequency_95_hz"])
    first, *facts, question = text.split("\n")
    assert "sleep EEG" in first
    assert facts[0].endswith(f": {row['std_uv']:.3g} µV")
    assert facts[1].endswith(f": {row['delta_power_rel']:.3g}")
    assert facts[2].endswith(f": {row['edge_frequency_95_hz']:.3g} Hz")
    assert question == "The sleep stage, one of W, N1, N2, N3, REM, is:"


def test_a_column_that_is_no_feature_is_not_put_in_words(table):
    with pytest.raises(ValueError, match=r"no features \['stage', 'no_such'\]"):
        epoch_in_words(table.iloc[300], ["std_uv", "stage", "no_such"])


def test_cohort_digit_without_cut_points_is_refused():
    with pytest.raises(ValueError, match=r"\['std_uv'\] have no cut points"):
        PromptSpec(digits=(Digit("std_uv", "cohort"),))
