"""What the signal itself says: which epochs are lost, and what a night of nothing tells."""

from __future__ import annotations

import numpy as np
import pytest

from sleepstage.recordings.quality import check_unit, epoch_quality, unusual_amplitude


@pytest.mark.parametrize("freq_hz", [0.5, 1, 5, 10, 12.5, 20, 25])
def test_smooth_peaks_are_not_taken_for_clipping(freq_hz):
    sine = 50 * np.sin(2 * np.pi * freq_hz * np.arange(3000) / 100 + 0.3)
    assert epoch_quality(sine[np.newaxis].astype(np.float32)) == ["ok"]


def test_an_electrode_that_came_off_within_an_epoch_is_named():
    x = np.random.default_rng(0).normal(scale=20, size=(5, 3000))
    x[0, 500:900] = 3.0  # four seconds
    x[1, 500:1100] = 3.0  # five whole seconds at least, wherever they begin
    x[2, 2440:] = 3.0 + 1e-3 * x[0, 2440:]
    x[3, ::2] = 3.0  # every other sample: no stretch
    x[4, :600] = -500.0  # held at the amplifier's limit
    assert list(epoch_quality(x)) == ["ok", "disconnected", "disconnected", "ok", "clipped"]


def test_a_night_of_which_nothing_was_recorded_is_neither_refused_nor_unusual():
    for nothing in (np.zeros((3, 3000)), np.full((3, 3000), np.nan)):
        check_unit(nothing, "the night")
        assert unusual_amplitude(nothing) == []
