"""README and docs: their links lead somewhere, one address of the repository, figures that were measured."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sleepstage/data/**/README.md")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))
NAMES_REPOSITORY = re.compile(
    r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob"  # a badge of a notebook
    r"|git\+https://github\.com/([\w.-]+/[\w.-]+?)[\\\"'`]"  # an installation
    r"|(?:git clone|repository-code:) https://github\.com/([\w.-]+/[\w.-]+)"
    r"|github\.com/([\w.-]+/[\w.-]+)/(?:actions|issues|commits)\b"
)


def repository() -> str:
    """Give ``owner/name`` from pyproject.toml, the one place that says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def repositories(text: str) -> set[str]:
    return {name for names in NAMES_REPOSITORY.findall(text) for name in names if name}


@pytest.mark.parametrize(
    "path",
    [*TEXTS, ROOT / "CITATION.cff", *NOTEBOOKS],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_addresses_of_the_repository_are_that_of_pyproject(path):
    found = repositories(path.read_text(encoding="utf-8"))
    assert found <= {repository()}, f"CONTRIBUTING.md (The repository's address) changes all of them: {found}"
    if path.name == "README.md" and path.parent == ROOT or path.parent == ROOT / "notebooks":
        assert found, "no badge, and no line to install it"


@pytest.mark.parametrize(
    "text",
    [
        "(https://colab.research.google.com/github/you/fork/blob/main/notebooks/00_start.ipynb)",
        "`pip install git+https://github.com/you/fork`",
        'install \\"sleepstage @ git+https://github.com/you/fork\\"',
        "git clone https://github.com/you/fork && cd sleepstage",
        "[issue](https://github.com/you/fork/issues)",
    ],
)
def test_another_address_would_be_found(text):
    assert repositories(text) == {"you/fork"}


@pytest.mark.release
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^()\s#]+)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.release
def test_the_readmes_figures_are_those_of_the_adapter_that_ships():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    file = ROOT / "sleepstage" / "data" / "adapter" / "figures.json"
    measured = json.loads(file.read_text(encoding="utf-8"))["validation"]
    (alone,) = re.findall(r"^\| without hints \|(.+)\|$", text, re.MULTILINE)
    (hinted,) = re.findall(r"^\| twenty hints a night[^|]+\|(.+)\|$", text, re.MULTILINE)
    for model, kappa, others in zip(
        ("llm", "network", "baseline"), alone.split("|"), hinted.split("|"), strict=True
    ):
        expected = [measured[model]["kappa"], *measured[model]["kappa_ci"]]
        assert numbers(kappa) == pytest.approx(expected, abs=5.01e-4)
        (row,) = [
            row for row in measured["hints"] if (row["model"], row["at"], row["n"]) == (model, "doubt", 20)
        ]
        expected = [row["kappa_others_unhinted"], row["kappa_others"]]
        if row["kappa_difference"]:  # trees read no hints
            assert numbers(others) == pytest.approx(expected, abs=5.01e-4)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d*\.\d+", text)]
