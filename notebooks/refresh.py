"""Run the notebooks and the solutions in order from clean kernels and keep their outputs: ``make notebooks``.

With paths as arguments, only those are run. The README's picture, ``docs/night.png``, is one of a notebook.

Outputs are stored as a reader without a kernel needs them. A progress bar is a widget, whose stored text is
the bar at 0 %: it is replaced by the last text that it showed. A widget that brings a picture of itself is
replaced by that picture. Timestamps and other metadata are dropped. Exercises are handed out empty.
"""

from __future__ import annotations

import base64
import html
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def refresh(path: Path) -> float:
    """Run a notebook in place and give the seconds it took; a failing one is left as it was."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    started = time.monotonic()
    client.execute()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [
                kept for output in cell.outputs if (kept := readable(output, client.widget_state))
            ]
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)
    return time.monotonic() - started


def readable(output: nbformat.NotebookNode, widgets: dict) -> nbformat.NotebookNode | None:
    """Give an output as it is, a widget as its picture or last text, a bar that has vanished as nothing."""
    view = output.get("data", {}).pop(WIDGET, None)
    if view is None or "image/png" in output["data"]:
        return output
    text = last_text(widgets, view["model_id"])
    output["data"] = {"text/plain": text}
    return output if text else None


def last_text(widgets: dict, model_id: str) -> str:
    """Read what stands left and right of a tqdm bar; nothing if the bar was closed and hidden."""
    box = widgets[model_id]
    layout = widgets[box["layout"].removeprefix("IPY_MODEL_")]
    if layout.get("display") == "none" or layout.get("visibility") == "hidden":
        return ""
    parts = [widgets[child.removeprefix("IPY_MODEL_")] for child in box["children"]]
    texts = [part["value"].strip() for part in parts if part["_model_name"] == "HTMLModel"]
    return html.unescape(re.sub(r"<[^>]+>|\u200b", "", " ".join(texts))).replace("\xa0", " ").strip()


def with_outputs(folder: Path) -> list[Path]:
    """Give the notebooks that are kept with their outputs, in the order in which they build on each other."""
    return [path for pattern in ("*.ipynb", "solutions/*.ipynb") for path in sorted(folder.glob(pattern))]


def picture_below(path: Path, cell_id: str) -> bytes:
    """Give the first picture, a PNG, among the outputs of a cell."""
    (cell,) = [cell for cell in nbformat.read(path, as_version=4).cells if cell.id == cell_id]
    shown = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(shown[0])


if __name__ == "__main__":
    FOLDER = Path(__file__).parent
    for notebook_path in [Path(name) for name in sys.argv[1:]] or with_outputs(FOLDER):
        print(f"{notebook_path.name}: {refresh(notebook_path):.0f} s", flush=True)
    night = picture_below(FOLDER / "00_start.ipynb", "picture")
    (FOLDER.parent / "docs" / "night.png").write_bytes(night)
