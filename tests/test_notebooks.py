"""Every notebook runs from a clean kernel, in the fast setting, one after the other as a reader would."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = ["01_download", "02_features", "03_dataset", "04_qlora_finetune", "05_eval"]


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_and_draws(name, folder, monkeypatch, smollm2_tokenizer):
    monkeypatch.setenv("SLEEPSTAGE_FAST", "1")
    monkeypatch.delenv("MPLBACKEND")  # the kernel draws inline
    notebook = read(name)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=400, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert pictures and all(len(base64.b64decode(picture)) > 5_000 for picture in pictures)
    assert not [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_a_clean_run(name):
    cells = [cell for cell in code_cells(read(name)) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_gives_away_no_path_and_no_token(name):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    home = re.escape(str(Path.home()))
    assert not re.search(rf"{home}/|/home/|/Users/|site-packages/|hf_[A-Za-z0-9]{{20}}", text)


@pytest.mark.parametrize("name", NAMES)
def test_badge_points_to_the_notebook_itself(name):
    first = read(name).cells[0]
    assert f"/blob/main/notebooks/{name}.ipynb)" in first.source
    assert first.source.startswith("# ")


def test_all_notebooks_share_one_set_up_cell_that_does_nothing_here():
    cells = {code_cells(read(name))[0].source for name in NAMES}
    assert len(cells) == 1
    assert 'if "google.colab" in sys.modules:' in cells.pop()


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_define_nothing_the_package_should_own(name):
    for cell in code_cells(read(name))[1:]:
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 15, cell.source
        assert not re.search(r"^(def|class) ", cell.source, re.MULTILINE), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_parameters_show_the_fast_setting(name):
    parameters = code_cells(read(name))[1].source
    assert 'FAST = os.environ.get("SLEEPSTAGE_FAST") == "1"' in parameters
