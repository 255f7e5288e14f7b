"""What the tests of the notebooks share: which there are, their cells, and what is wrong with outputs."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
STATIONS = {"01": "EEG", "02": "features", "03": "digits", "04": "tokens", "05": "five probabilities"}
SOLUTIONS = [f"solutions/{number}_solutions" for number in STATIONS]
EXERCISES = [f"exercises/{number}_exercises" for number in STATIONS]
ALL = [*NAMES, *EXERCISES, *SOLUTIONS]

DRAWS = re.compile(
    r"\bss\.(plot_\w+|night_explorer|night_scorer|what_if|beat_the_expert)\("
    r"|\bplt\.(subplots|figure|plot)\b|\.plot[.(]"
    r"|\bsns\.(?!set|color|despine|\w*palette)\w+\("
)
EXPECTED = re.compile(
    r"left out: |not available from |.*\d%\|"
)  # on stderr: what a text explains, and progress bars
LEAST_INK = 0.02  # of a picture's points; axes with nothing in them have half of it


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def strip(name: str) -> str:
    """Give the line on top of a notebook: the way of an epoch, with the place where this notebook stands."""
    here = STATIONS.get(name[:2])
    homes = {number: next(home for home in NAMES if home.startswith(number)) for number in STATIONS}
    stations = [
        f"**{station}**" if station == here else f"[{station}]({homes[number]}.ipynb)"
        for number, station in STATIONS.items()
    ]
    return f"> {' → '.join(stations)} · you are here: **{here or 'all of it'}"


def ink(png: str) -> float:
    """Give the share of a picture's points that are not its ground."""
    points = plt.imread(io.BytesIO(base64.b64decode(png)))[..., :3]
    return float((np.abs(points - points[0, 0]).max(axis=-1) > 0.1).mean())


def check_outputs(notebook: nbformat.NotebookNode, every_plot: bool = True) -> None:
    for cell in code_cells(notebook):
        outputs = cell.outputs
        pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
        if every_plot and DRAWS.search(cell.source):
            assert pictures, f"no picture from:\n{cell.source}"
        assert all(ink(picture) > LEAST_INK for picture in pictures), f"an empty picture from:\n{cell.source}"
        assert not [o for o in outputs if o.output_type == "error"], cell.source
        said = "".join(o.text for o in outputs if o.get("name") == "stderr")
        stumbles = [line for line in re.split(r"[\r\n]+", said) if line and not EXPECTED.match(line)]
        assert not stumbles, f"{cell.source}\nmakes a reader stumble over: {stumbles}"
