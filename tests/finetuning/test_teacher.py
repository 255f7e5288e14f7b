"""The small network and the teacher, on made nights whose stages follow from one column and a rule."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import sleepstage as ss
from sleepstage.dataset.digits import Digit, PromptSpec
from sleepstage.finetuning.teacher import N_FOLDS, N_MEMBERS, Network, Teacher

SPEC = PromptSpec((Digit("x"), Digit("noise")))


def nights(people, n_epochs=300, seed=0):
    """The stage of an epoch is W, N2 or N3 by the third of the night's values in which ``x`` lies."""
    rng = np.random.default_rng(seed)
    parts = []
    for person in people:
        index = pd.MultiIndex.from_product(
            [[person], [f"night {person}"], range(n_epochs)], names=["subject", "recording", "epoch"]
        )
        x = rng.normal(size=n_epochs)
        third = pd.qcut(x, 3, labels=False)
        values = {"x": x, "noise": rng.normal(size=n_epochs), "stage": np.array([0, 2, 3])[third]}
        parts.append(pd.DataFrame(values, index))
    return pd.concat(parts).astype({"stage": np.int8})


@pytest.fixture(scope="module")
def network():
    return Network.fit(nights(range(8)), SPEC, n_passes=30, margin_epochs=10, partial_share=0.0)


def test_a_network_learns_the_rule_for_people_that_it_never_saw(network):
    new = nights(range(20, 24), seed=1)
    proba = network.predict_proba(new)
    assert ss.score(new["stage"], proba)["kappa"] > 0.75
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert network.trained_on == tuple(range(8))


def test_nights_are_read_side_by_side_as_one_by_one(network):
    two = pd.concat([nights([30]), nights([31], n_epochs=250)])
    together = network.predict_proba(two)
    for _, night in two.groupby(level="subject"):
        np.testing.assert_allclose(network.predict_proba(night), together.loc[night.index], atol=1e-5)


def test_a_hint_is_kept_and_changes_what_is_said_of_others(network):
    new = nights([40])
    known = pd.Series(-1, new.index)
    known.iloc[::10] = 4  # a stage that no training night has
    unhinted, hinted = network.predict_proba(new), network.predict_proba(new, known)
    given = (known >= 0).to_numpy()
    assert (hinted["REM"][given] == 1).all()
    assert (hinted[~given] - unhinted[~given]).abs().to_numpy().max() > 0


def test_what_cannot_be_measured_has_no_answer(network):
    new = nights([50])
    new.iloc[5:9, :2] = np.nan
    proba = network.predict_proba(new)
    assert proba.isna().any(axis=1).to_numpy().nonzero()[0].tolist() == [5, 6, 7, 8]


def test_the_same_seed_gives_the_same_network_and_leaves_torchs_own_alone():
    table = nights(range(3), n_epochs=240)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two = (Network.fit(table, SPEC, n_passes=1).predict_proba(table) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def recorded(monkeypatch):
    """Networks that have learned nothing, and whom they were to learn from."""
    learned, fit = [], Network.fit.__func__

    def quick(cls, table, spec, seed=0, **settings):
        learned.append(set(table.index.unique("subject")))
        return fit(cls, table, spec, seed, n_passes=0)

    monkeypatch.setattr(Network, "fit", classmethod(quick))
    return learned


def test_nobody_is_answered_by_a_network_that_learned_from_them(recorded):
    table = nights(range(11), n_epochs=240)
    teacher = Teacher.fit(table, SPEC)
    assert len(recorded) == len(teacher.networks) == N_MEMBERS * N_FOLDS
    levels, asked = SPEC.levels(table), np.full(len(table), -1)
    proba = teacher.read(table, levels, asked)
    for person in range(11):
        strangers = [i for i, learned in enumerate(recorded) if person not in learned]
        assert len(strangers) == N_MEMBERS and all(len(recorded[i]) >= 8 for i in strangers)
        rows = table.index.get_level_values("subject") == person
        own = [teacher.networks[i].read(table[rows], levels[rows], asked[rows]) for i in strangers]
        np.testing.assert_allclose(proba[rows], np.mean(own, axis=0), atol=1e-6)


def test_a_kept_network_is_not_trained_again_but_for_other_data(recorded, tmp_path):
    table = nights(range(5), n_epochs=240)
    first = Teacher.fit(table, SPEC, tmp_path)
    again = Teacher.fit(table, SPEC, tmp_path)
    assert len(recorded) == N_MEMBERS * N_FOLDS and again.run == first.run
    asked = np.full(len(table), -1)
    levels = SPEC.levels(table)
    np.testing.assert_array_equal(again.read(table, levels, asked), first.read(table, levels, asked))
    changed = Teacher.fit(table.assign(x=-table["x"]), SPEC, tmp_path)
    assert len(recorded) == 2 * N_MEMBERS * N_FOLDS and changed.run != first.run
    assert len(list(tmp_path.iterdir())) == N_MEMBERS * N_FOLDS


def test_a_damaged_kept_network_is_trained_anew_and_told(recorded, tmp_path, caplog):
    table = nights(range(5), n_epochs=240)
    first = Teacher.fit(table, SPEC, tmp_path)
    damaged = sorted(tmp_path.iterdir())[:3]
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[:-100])
    save_file({"x": torch.zeros(1)}, damaged[2])
    again = Teacher.fit(table, SPEC, tmp_path)
    assert len(recorded) == N_MEMBERS * N_FOLDS + 3 and again.run == first.run
    assert all(f"{file} is not a network" in caplog.text for file in damaged)
    asked, levels = np.full(len(table), -1), SPEC.levels(table)
    np.testing.assert_array_equal(again.read(table, levels, asked), first.read(table, levels, asked))


def test_fewer_people_than_folds_are_refused():
    with pytest.raises(ValueError, match="at least 5 people, got 3"):
        Teacher.fit(nights(range(3)), SPEC)
