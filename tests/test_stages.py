"""Stages as codes, names and probabilities."""

import numpy as np
import pytest

from sleepstage.stages import most_probable_stages, stage_codes, stage_names


def test_most_probable_stage_of_a_row_without_values_is_unscored():
    assert most_probable_stages(np.vstack([np.eye(5)[3], np.full(5, np.nan)])).tolist() == [3, -1]


def test_stages_become_names_and_no_stage_an_empty_one():
    assert stage_names(np.array([4, -1, 0], np.int8)) == ["REM", "", "W"]
    with pytest.raises(ValueError, match="not a stage code"):
        stage_names([-2])


def test_stage_codes_accept_lists_and_floats_without_fractions():
    assert stage_codes([0.0, 4.0, -1.0]).dtype == np.int8
    with pytest.raises(ValueError, match=r"ndarray of shape \(3, 5\).*most_probable_stages"):
        stage_codes(np.full((3, 5), 0.2))
    with pytest.raises(ValueError, match="nan"):
        stage_codes([0.0, np.nan])
