"""How people differ in their features, and where one of them lies among others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .evaluate import stage_codes
from .features import feature_columns
from .stages import STAGES, UNSCORED

MIN_EPOCHS = 10  # five minutes: of less, a person's night says nothing about a stage


def between_people(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how much people differ in each feature, stage by stage.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the share of the variance that lies between people. NaN
        where fewer than two people have the stage.

    Raises
    ------
    ValueError
        With one person only, when no epoch is scored, or there is no feature.

    Notes
    -----
    The intraclass correlation ICC(1) of a one-way analysis of variance with groups of unequal size (Donner,
    1986, doi:10.2307/1403259), of ranks, since a few artefacts would make up most of a power's variance. It
    may come out a little below 0, which means none.
    """
    features, stages = scored_epochs(table)
    people = features.index.get_level_values("subject")
    if people.nunique() < 2:
        raise ValueError("one person does not differ from others; the table needs at least two subjects")
    by_stage = {
        stage: _intraclass_correlation(features[stages == code].rank(), people[stages == code])
        for code, stage in enumerate(STAGES)
    }
    return pd.DataFrame(by_stage).rename_axis("feature")


def compare_with_cohort(night_table: pd.DataFrame, cohort_table: pd.DataFrame) -> pd.DataFrame:
    """Say where one person lies among the people of a cohort.

    Parameters
    ----------
    night_table, cohort_table : DataFrame
        Feature tables with stages. Features that both have are compared; whoever has the night's subject
        number is left out of the cohort.

    Returns
    -------
    DataFrame
        Features in rows, the five stages in columns: the percentile, 0 to 100, of the person's median over
        the stage's epochs among the others' medians. NaN where one side lacks ten epochs of the stage.

    Raises
    ------
    ValueError
        When the night is not of one person, nothing is left to compare, or no epoch is scored.
    """
    subjects = night_table.index.unique("subject")
    others = cohort_table[~cohort_table.index.get_level_values("subject").isin(subjects)]
    shared = [name for name in feature_columns(night_table) if name in cohort_table]
    if len(subjects) != 1 or others.empty or not shared:
        raise ValueError(
            f"expected a night of one person, and a cohort of others with the same features; got "
            f"{len(subjects)} in the night, {others.index.unique('subject').size} others, features: {shared}"
        )
    theirs = _medians(others[[*shared, "stage"]])
    own = _medians(night_table[[*shared, "stage"]]).droplevel("subject")
    own = own.reindex(theirs.index.get_level_values("stage")).set_axis(theirs.index)
    below = (theirs.lt(own) + theirs.eq(own) / 2).where(theirs.notna() & own.notna())
    percentiles = 100 * below.groupby(level="stage").mean().reindex(range(len(STAGES)))
    return percentiles.set_axis(list(STAGES)).T.rename_axis("feature")


def scored_epochs(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Give the features (n_epochs, n_features) and stage codes (n_epochs,) of the scored epochs."""
    names = feature_columns(table)
    stages = stage_codes(table["stage"])
    scored = stages != UNSCORED
    if not names or not scored.any():
        raise ValueError(f"got {len(names)} features and {scored.sum()} scored epochs; both are needed")
    return table.loc[scored, names].replace([np.inf, -np.inf], np.nan), stages[scored]


def _intraclass_correlation(values: pd.DataFrame, people: pd.Index) -> pd.Series:
    """Give the ICC(1) of each column of values (n_epochs, n_features), NaN where it is undefined."""
    groups = values.groupby(people)
    n, means = groups.count(), groups.mean()
    k, total = (n > 0).sum().where(lambda count: count > 1), n.sum()
    between = (n * (means - values.mean()) ** 2).sum() / (k - 1)
    within = ((values - groups.transform("mean")) ** 2).sum() / (total - k)
    size = (total - (n**2).sum() / total) / (k - 1)
    return (between - within) / (between + (size - 1) * within)


def _medians(table: pd.DataFrame) -> pd.DataFrame:
    """Give each person's median in each stage, indexed by (stage, subject); too short a stage is left out."""
    features, stages = scored_epochs(table)
    groups = features.groupby([pd.Index(stages, name="stage"), features.index.get_level_values("subject")])
    return groups.median()[groups.size() >= MIN_EPOCHS]
