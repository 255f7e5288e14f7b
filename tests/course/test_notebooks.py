"""The notebooks as software: each runs from a clean kernel, draws, and makes nobody stumble.

They run in the fast setting, one after the other as a reader would. What is committed with them (text,
figures, outputs) is checked before a release: ``test_release.py``.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from notebook_files import NAMES, NOTEBOOKS, SOLUTIONS, STATIONS, check_outputs, code_cells, read
from scipy import signal


def run(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, source: Path | None = None
) -> nbformat.NotebookNode:
    """Run a notebook in the fast setting in a folder of its own; with another source if one is given."""
    monkeypatch.setenv("SLEEPSTAGE_FAST", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws inline
    notebook = read(name)
    if source is not None:
        parameters = code_cells(notebook)[1]
        parameters.source, n_changed = re.subn(
            r"^SOURCE = .*$", f"SOURCE = {str(source)!r}", parameters.source, flags=re.MULTILINE
        )
        assert n_changed == 1
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return notebook


def picture_of(values: list[float]) -> nbformat.NotebookNode:
    figure, ax = plt.subplots(figsize=(6, 4))
    ax.bar(range(len(values)), values)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    return nbformat.v4.new_output(
        "display_data", data={"image/png": base64.b64encode(png.getvalue()).decode()}
    )


@pytest.mark.parametrize(
    "outputs, fault",
    [
        ([picture_of([1, 2, 3])], None),
        ([], "no picture"),
        ([nbformat.v4.new_output("execute_result", data={"text/plain": "<Axes>"})], "no picture"),
        ([picture_of([])], "an empty picture"),
        ([picture_of([1]), nbformat.v4.new_output("error", ename="ValueError")], "plot_epoch"),
        ([picture_of([1]), nbformat.v4.new_output("stream", name="stderr", text="a Warning")], "a Warning"),
    ],
)
def test_faults_in_outputs_would_be_found(outputs, fault):
    cell = nbformat.v4.new_code_cell("ss.plot_epoch(night.eeg_uv[3], 100)", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    if fault is None:
        return check_outputs(notebook)
    with pytest.raises(AssertionError, match=fault):
        check_outputs(notebook)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


SLOW = ("00_start", "04_qlora_finetune", "05_eval", "workshop")  # the language model reads for minutes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES]
)
def test_notebook_runs_and_draws(name, folder, monkeypatch, smollm2_tokenizer):
    check_outputs(run(name, folder, monkeypatch))


@pytest.fixture(scope="module")
def contest(night, tmp_path_factory):
    """A folder like the contest's: the shipped night dealt out to two people of different amplitude."""
    root = tmp_path_factory.mktemp("contest") / "AISContest_Data"
    for epoch, (eeg_uv, stage) in enumerate(zip(night.eeg_uv, night.stages, strict=True)):
        person = 1 + epoch % 2  # with more, nights so short that a warning says so
        eeg_v = 1e-6 * (1 + person / 10) * eeg_uv
        (root / str(stage)).mkdir(parents=True, exist_ok=True)
        power = signal.spectrogram(eeg_v, 100, nperseg=100, noverlap=50)[2]
        place = epoch // 2 if person == 1 else 500 - epoch // 2  # backwards: else they are one recording
        np.save(root / str(stage) / f"{person:02}-{place}.npy", power)
    return root


@pytest.fixture(scope="module")
def fresh_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name[:2] in list(STATIONS)[2:]])
def test_notebook_runs_on_a_contest_folder(name, contest, fresh_folder, monkeypatch, smollm2_tokenizer):
    notebook = run(name, fresh_folder, monkeypatch, contest)
    check_outputs(notebook, every_plot=False)  # spectrograms have no signal to draw
    assert (fresh_folder / "sleepstage-data" / contest.name / "prompt.json").is_file()


# ---- `make notebooks`


@pytest.fixture(scope="module")
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", NOTEBOOKS / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_refresh_keeps_outputs_of_the_notebooks_and_the_solutions(refresh):
    found = [
        path.relative_to(NOTEBOOKS).with_suffix("").as_posix() for path in refresh.with_outputs(NOTEBOOKS)
    ]
    assert found == [*NAMES, *SOLUTIONS]
    assert found[:3] == ["00_start", "01_download", "01b_your_data"]


def test_refresh_finds_the_picture_below_a_cell(refresh, tmp_path):
    text, picture = nbformat.v4.new_output("stream", text="kappa"), picture_of([1, 2])
    cells = [
        nbformat.v4.new_code_cell(outputs=[picture_of([3])], id="other"),
        nbformat.v4.new_code_cell(outputs=[text, picture], id="mine"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    found = refresh.picture_below(tmp_path / "a.ipynb", "mine")
    assert found == base64.b64decode(picture.data["image/png"])


def test_refresh_puts_a_picture_in_a_widgets_place(refresh):
    view = {refresh.WIDGET: {"model_id": "m"}, "image/png": "…", "text/plain": "NightExplorer"}
    output = nbformat.v4.new_output("display_data", data=view)
    assert refresh.readable(output, {}).data == {"image/png": "…", "text/plain": "NightExplorer"}


def test_refresh_writes_a_progress_bar_out_and_drops_one_that_has_vanished(refresh):
    parts = {"l": "  90%", "r": " 9/10&nbsp;[00:03]"}
    models = {key: {"value": value, "_model_name": "HTMLModel"} for key, value in parts.items()}
    models |= {"m": {"layout": "IPY_MODEL_y", "children": ["IPY_MODEL_l", "IPY_MODEL_r"]}, "y": {}}
    output = nbformat.v4.new_output(
        "display_data", data={refresh.WIDGET: {"model_id": "m"}, "text/plain": "0%"}
    )
    assert refresh.readable(output.copy(), models).data["text/plain"].split() == ["90%", "9/10", "[00:03]"]
    models["y"] = {"display": "none"}
    output = nbformat.v4.new_output(
        "display_data", data={refresh.WIDGET: {"model_id": "m"}, "text/plain": "0%"}
    )
    assert refresh.readable(output, models) is None
