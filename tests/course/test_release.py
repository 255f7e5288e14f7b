"""What is checked before a release: what the notebooks and the README say is what was measured and shown.

``make release-check`` runs these, ``make test`` does not: an honest change of a figure or of a sentence fails
here until the notebooks have been run again (``make notebooks``) and the text has been read again.
"""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import nbformat
import pytest
from notebook_files import (
    ALL,
    DRAWS,
    NAMES,
    NOTEBOOKS,
    ROOT,
    SOLUTIONS,
    check_outputs,
    code_cells,
    read,
    strip,
    texts,
)

import sleepstage as ss

pytestmark = pytest.mark.release

PRIVATE = {
    "a token": r"\bhf_[A-Za-z0-9]{20}|\bgh[pousr]_[A-Za-z0-9]{30}|\bgithub_pat_|\bsk-[A-Za-z0-9_-]{20}",
    "a path of somebody's computer": r"/home/\w|/root/|/Users/\w|[A-Z]:\\+Users|site-packages/|/ipykernel_",
}

OWN_PAGES = (
    "https://github.com/sleepstage/sleepstage/blob/main/",
    "https://github.com/sleepstage/sleepstage/tree/main/",
    "https://colab.research.google.com/github/sleepstage/sleepstage/blob/main/",
)

# Figures that the text quotes and that the notebook does not print, with their source.
FROM_ELSEWHERE: dict[str, dict[str, str]] = {
    "00_start": {
        "0.76": "Lee et al., 2022",
        "135": "SmolLM2's millions of weights",
        "270": "sleepstage.prepare",
    },
    "01_download": {
        "0.76": "Lee et al., 2022",
        "0.24": "Lee et al., 2022",
        "101": "a volume of a reference",
        "25,230": "841 × 30",
    },
    "01b_your_data": {
        "300": "the slow waves of children",
        "153": "the nights of Sleep Cassette",
        "288": "6 × 48",
        "5,813": "the contest's announcement",
        "134": "the size of the contest's zip",
    },
    "02_features": {
        **dict.fromkeys(["0.09", "0.82", "0.56", "9.2", "53"], "computed anew in a test below"),
        "468": "an epoch that the explorer jumps to",
        "530": "an epoch that the explorer jumps to",
        "101": "an age",
    },
    "03_dataset": {
        "83 %": "Rosenberg & Van Hout, 2013",
        "0.8243651": "an example",
        "408": "the earlier attempt",
        "26": "benchmarks/runs.csv",
        ".613": "benchmarks/runs.csv",
        ".616": "benchmarks/runs.csv",
    },
    "04_qlora_finetune": {
        "128,256": "Llama-3's vocabulary",
        "32": "bits",
        "14.7": "the memory of a T4, in GiB",
        "15 %": "tests/finetuning/test_memory_plan.py",
        "3.2": "Llama's version",
        "1.6": "12 × 134,515,008 bytes, in GB",
        "2.3": "the size of the 4-bit copy on the hub, in GB",
        "60 %": "an example",
        "40 %": "an example",
        "04.1": "an exercise",
    },
    "05_eval": {
        "0.95": "an example",
        "0.5": "an example",
        "0.8": "an example",
        "80 %": "an example",
        "3,000": "30 s at 100 Hz",
        "49,152": "SmolLM2's vocabulary",
    },
    "workshop": {
        "270": "sleepstage.prepare",
        "0.24": "Lee et al., 2022",
        "83 %": "Rosenberg & Van Hout, 2013",
        "3,000": "30 s at 100 Hz",
        "1.61": "ln 5",
        "8,192": "the tokens that SmolLM2 reads at once",
    },
}


# ---- Committed outputs


@pytest.mark.parametrize("name", [*NAMES, *SOLUTIONS])
def test_committed_outputs_are_a_clean_run(name):
    notebook = read(name)
    check_outputs(notebook)
    cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_need_no_kernel(name):
    for cell in code_cells(read(name)):
        for output in cell.outputs:
            assert not [kind for kind in output.get("data", {}) if "widget" in kind], cell.source


@pytest.mark.parametrize("name", ["00_start", "04_qlora_finetune", "05_eval"])
def test_committed_outputs_are_of_whole_nights_and_not_of_the_fast_setting(name):
    shown = "\n".join(output_texts(read(name)))
    assert re.search(r"\b\d{3,} (test )?epochs", shown)
    assert not re.search(r"\b240 (test )?epochs", shown)


@pytest.mark.parametrize("name", ALL)
def test_notebook_gives_away_no_path_and_no_token(name):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    for what, pattern in {**PRIVATE, "this computer's home": re.escape(f"{Path.home()}/")}.items():
        assert not re.search(pattern, text), f"{name} shows {what}: {re.search(pattern, text)}"


# ---- Code


def snippets(notebook: nbformat.NotebookNode) -> Iterator[ast.Module]:
    """Parse the code cells, without IPython's own lines, and the Python that stands in the text."""
    sources = [re.sub(r"^(\s*)[!%].*", r"\1pass", cell.source, flags=re.M) for cell in code_cells(notebook)]
    for text in texts(notebook):
        sources += re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    yield from map(ast.parse, sources)


def imported(trees: list[ast.Module]) -> dict[str, Any]:
    """Give what a notebook's import statements bind, but for what only Colab has."""
    found = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            for name in node.names:
                module = importlib.import_module(name.name)
                found[name.asname or name.name] = module
        if isinstance(node, ast.ImportFrom) and not node.module.startswith("google.colab"):
            module = importlib.import_module(node.module)
            for name in node.names:
                found[name.asname or name.name] = getattr(module, name.name)
    return found


def resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """Give the object that ``a.b.c`` names, or None if not known; modules must have what is asked."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = resolved(node.value, names) if isinstance(node, ast.Attribute) else None
    if inspect.ismodule(owner):
        return getattr(owner, node.attr)
    return getattr(owner, node.attr, None) if inspect.isclass(owner) else None


def made_by(function: Any) -> Any:
    """Give the package's class that a call makes, by its annotation, or None."""
    found = function
    if not inspect.isclass(function):
        made = getattr(function, "__annotations__", {}).get("return")
        home = sys.modules.get(getattr(function, "__module__", None) or "")
        found = function.__self__ if made is Self else getattr(home, str(made), made)
    return found if inspect.isclass(found) and found.__module__.startswith("sleepstage.") else None


def wrong_keywords(notebook: nbformat.NotebookNode) -> list[str]:
    """List calls with a keyword that the called function does not have, and names that do not exist."""
    trees = list(snippets(notebook))
    names = imported(trees)
    for node in (node for tree in trees for node in ast.walk(tree)):  # what is made of the package's classes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = made_by(resolved(node.value.func, names))
            if made is not None and isinstance(node.targets[0], ast.Name):
                names[node.targets[0].id] = made
    wrong = []
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = resolved(call.func, names)
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # not known, or written in C
            continue
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            known = {parameter.name for parameter in parameters}
            unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - known
            wrong += [f"{ast.unparse(call)}: no {', '.join(sorted(unknown))}"] if unknown else []
    return wrong


@pytest.mark.parametrize("name", ALL)
def test_keyword_arguments_exist_in_the_signatures_that_they_call(name):
    assert not wrong_keywords(read(name))


@pytest.mark.parametrize(
    "cell, fault",
    [
        ("import sleepstage as ss\nss.split_blocks(t, blocks=3)", "no blocks"),
        ("import sleepstage as ss\ns = ss.Stager.from_pretrained()\ns.predict_proba(t, batch=3)", "no batch"),
        ("from sleepstage.finetuning.trainer import finetune\nfinetune(table, steps=3)", "no steps"),
    ],
)
def test_a_wrong_keyword_would_be_found(cell, fault):
    for node in (
        nbformat.v4.new_code_cell(cell),
        nbformat.v4.new_markdown_cell(f"So:\n```python\n{cell}\n```"),
    ):
        (found,) = wrong_keywords(nbformat.v4.new_notebook(cells=[node]))
        assert found.endswith(fault)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_define_nothing_the_package_should_own(name):
    set_up, parameters, *story = code_cells(read(name))
    for cell, most in (
        (parameters, 28),
        *((cell, 15) for cell in story),
    ):  # the imports stand with the parameters, and a line of words above each field of Colab's form
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= most, cell.source
        if name != "workshop":  # which has the exercises' stubs
            assert not re.search(r"^(def|class) ", cell.source, re.MULTILINE), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_parameters_show_the_fast_setting(name):
    parameters = code_cells(read(name))[1].source
    assert 'FAST = os.environ.get("SLEEPSTAGE_FAST") == "1"' in parameters


def test_all_notebooks_share_one_set_up_cell_that_does_nothing_here():
    cells = {code_cells(read(name))[0].source for name in NAMES}
    assert len(cells) == 1
    assert 'if "google.colab" in sys.modules:' in cells.pop()


# ---- Links, and figures in the text


@pytest.mark.parametrize("name", NAMES)
def test_badge_points_to_the_notebook_itself(name):
    first = read(name).cells[0]
    assert f"/blob/main/notebooks/{name}.ipynb)" in first.source
    assert first.source.startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_the_strip_on_top_says_where_the_notebook_stands(name):
    assert strip(name) in read(name).cells[0].source


def test_the_readmes_picture_is_the_notebooks():
    (cell,) = [cell for cell in code_cells(read("00_start")) if cell.id == "picture"]
    (shown,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    picture = (ROOT / "docs" / "night.png").read_bytes()
    assert base64.b64decode(shown) == picture
    assert len(picture) < 150_000


@pytest.mark.parametrize("name", ALL)
def test_links_resolve_inside_the_repository(name):
    here = (NOTEBOOKS / name).parent
    links = re.findall(r"\]\((?!data:)([^()\s]+)\)|(?:href|src)=\"([^\"]+)\"", "\n".join(texts(read(name))))
    assert links
    for link in (one or other for one, other in links):
        path, _, anchor = link.partition("#")
        own = next((path.removeprefix(page) for page in OWN_PAGES if path.startswith(page)), None)
        if own is not None:
            assert (ROOT / own).exists(), link
        elif not re.match("https?:", path):
            assert path.startswith("mailto:") or (here / path).exists(), link
            target = read(name) if not path else None
            assert not anchor or target and anchor in headings(target), f"{link}: no such heading"


def headings(notebook: nbformat.NotebookNode) -> set[str]:
    """Give the anchors of a notebook's headings, as Jupyter makes them."""
    lines = "\n".join(texts(notebook)).splitlines()
    return {line.lstrip("# ").replace(" ", "-") for line in lines if line.startswith("#")}


def output_texts(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            yield output.get("text", "")
            yield data.get("text/plain", "")
            yield re.sub(r"<style.*?</style>|<[^>]+>", " ", data.get("text/html", ""), flags=re.DOTALL)


NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES = "one two three four five six seven eight nine".split()
IN_WORDS = re.compile(rf"\b({'|'.join(TENS)})-({'|'.join(ONES)})\b", re.IGNORECASE)


def figures_quoted(text: str) -> Iterator[str]:
    """Give what in a text looks measured: decimals, per cent, whole numbers from 100 on or in two words."""
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]+>|\$[^$]*\$", " ", text, flags=re.DOTALL)
    for found in re.finditer(rf"(?<![\w.,:/–])({NUMBER})( ?%)?(?![\w–]|[.,:/]\d)", prose):
        number, percent = found.groups()
        a_year = re.fullmatch(r"(19|20)\d\d", number)
        if not a_year and (percent or "." in number or len(number.replace(",", "")) >= 3):
            yield found.group().strip()
    for tens, ones in IN_WORDS.findall(prose):
        yield str(20 + 10 * TENS.index(tens.lower()) + 1 + ONES.index(ones.lower()))


def figures_shown(notebook: nbformat.NotebookNode) -> set[float]:
    """Give every number in the outputs and in the code."""
    sources = [cell.source for cell in code_cells(notebook)]
    numbers = re.findall(
        rf"(?<![\w.])(?:{NUMBER})(?:e-?\d+)?", "\n".join([*output_texts(notebook), *sources])
    )
    return {float(number.replace(",", "")) for number in numbers}


def is_shown(quoted: str, shown: set[float]) -> bool:
    """Whether a figure is one of those shown, rounded to its own digits."""
    number = quoted.rstrip(" %").replace(",", "")
    value, decimals = float(number), len(number.partition(".")[2])
    if not decimals and not quoted.endswith("%"):
        return value in shown
    half = 0.5 * 10**-decimals + 1e-9
    scales = (1, 100) if quoted.endswith("%") else (1,)
    return any(abs(scale * one - value) <= half for one in shown for scale in scales)


@pytest.mark.parametrize("name", NAMES)
def test_figures_in_the_text_are_those_in_the_outputs(name):
    notebook, elsewhere = read(name), FROM_ELSEWHERE.get(name, {})
    quoted = [figure for text in texts(notebook) for figure in figures_quoted(text)]
    shown = figures_shown(notebook)
    assert quoted
    assert not [figure for figure in quoted if not is_shown(figure, shown) and figure not in elsewhere]
    assert set(elsewhere) <= set(quoted), "FROM_ELSEWHERE has figures that are no longer quoted"


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_said_in_words_for_those_who_cannot_see_it(name):
    cells = read(name).cells
    for place, cell in enumerate(cells):
        if cell.cell_type == "code" and DRAWS.search(cell.source):
            after = next(text.source for text in cells[place + 1 :] if text.cell_type == "markdown")
            assert "**In words:**" in after, f"the text after this picture does not say it:\n{cell.source}"


def test_notebook_2_reads_its_pictures_rightly(table):
    text = "\n".join(texts(read("02_features"))).replace("−", "-")
    effect = ss.separation(table, n_bootstrap=0)["effect"]
    bits = ss.mutual_information(table)["bits"]
    bands = ("delta", "theta", "alpha", "sigma", "beta")
    drawn = [f"{band}_{kind}" for kind in ("log_power", "share") for band in bands]
    n1_rem = effect.xs(("N1", "REM"), level=("stage", "against"))
    said = {
        r"`delta_share` has a Cliff's delta of (\S+),": effect["delta_share", "N2", "rest"],
        r"N3 has more of it \((\S+)\)": effect["delta_share", "N2", "N3"],
        r"column N1–N2: (\S+)\)": effect["delta_share", "N1", "N2"],
        r"REM less \((\S+)\)": effect["delta_share", "N2", "REM"],
        r"is an AUC of ([\d.]+\d)": (n1_rem.abs().max() + 1) / 2,
        r"further from 0 than (\S+) in the column N1–REM": n1_rem[drawn].abs().max(),
        r"bits of the best eight add up to (\S+),": bits.nlargest(8).sum(),
        r"REM's best mark, with a delta of (\S+),": effect["sigma_log_power", "REM", "rest"],
    }
    for pattern, value in said.items():
        (quoted,) = re.findall(pattern, text)
        assert is_shown(quoted.lstrip("+-"), {abs(value)}), (
            f"{pattern}: {quoted} is said, {value:.3f} is true"
        )
        assert (float(quoted) < 0) == (value < 0)
    assert "fifty-three of the seventy-seven" in text
    assert ((bits > bits["sigma_log_power"]).sum(), len(bits)) == (53, 77)


@pytest.mark.parametrize(
    "text, quoted, found",
    [
        ("a kappa of .689, or 0.69", [".689", "0.69"], True),
        ("a kappa of .698", [".698"], False),
        ("right in 86 % of 1,234 epochs", ["86 %", "1,234"], True),
        ("right in 87 %", ["87 %"], False),
        (
            "thirty-nine of 14, N2, `0.3`, SC4001, 2013, [Lee, 2022](https://doi.org/10.5664/9538)",
            ["39"],
            True,
        ),
        ("forty-one of them", ["41"], False),
    ],
)
def test_a_figure_that_nothing_shows_would_be_found(text, quoted, found):
    printed = nbformat.v4.new_output("stream", text="kappa 0.6893, share 0.857\n39 of 1234 epochs")
    shown = figures_shown(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[printed])]))
    assert list(figures_quoted(text)) == quoted
    assert all(is_shown(figure, shown) for figure in quoted) is found
