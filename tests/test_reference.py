"""The API reference is written without a warning, and what docstrings and documents name exists."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sleepstage as ss

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sleepstage"
DOCUMENTS = [
    *(path.name for path in ROOT.glob("*.md")),
    *(
        path.relative_to(ROOT).as_posix()
        for pattern in ("docs/*.md", "*/*/*.ipynb")
        for path in ROOT.glob(pattern)
    ),
]


def resolves(dotted: str) -> bool:
    """Whether ``sleepstage.…`` is a module, or something that a module or a class has."""
    owner, *names = dotted.split(".")
    found = importlib.import_module(owner)
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            try:
                found = importlib.import_module(f"{found.__name__}.{name}")
            except (AttributeError, ModuleNotFoundError):
                return False
    return True


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_what_a_docstring_names_of_the_package_exists(path):
    named = {
        name for text in docstrings(path) for name in re.findall(r"`~?(sleepstage(?:\.\w+)+)(?:\(\))?`", text)
    }
    assert not sorted(name for name in named if not resolves(name))


@pytest.mark.parametrize(
    "dotted, exists", [("sleepstage.Stager.predict_proba", True), ("sleepstage.qlora", False)]
)
def test_a_name_that_is_gone_would_be_found(dotted, exists):
    assert resolves(dotted) is exists


@pytest.mark.release
@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_of_the_package_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    dotted = set(re.findall(r"`(sleepstage(?:\.\w+)+)", text))
    dotted |= {f"sleepstage.{found}" for found in re.findall(r"\bss\.((?:\w+)(?:\.\w+)?)\(", text)}
    paths = re.findall(r"(?<![\w/.-])((?:sleepstage|tests|benchmarks|docs|notebooks)/[\w/]+\.\w+)", text)
    assert not sorted(found for found in dotted if not resolves(found))
    assert not sorted(found for found in paths if not (ROOT / found).exists())


@pytest.mark.release
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.endswith(".md")])
def test_links_of_a_document_lead_somewhere(name):
    links = re.findall(r"\]\((?!https?:)([^()#\s]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]


@pytest.mark.slow
def test_the_reference_shows_every_public_name_and_warns_of_nothing(tmp_path):
    command = [sys.executable, ROOT / "docs" / "reference.py", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "sleepstage.html").read_text(encoding="utf-8")
    assert not [name for name in ss.__all__ if f'href="#{name}"' not in page]
    assert 'href="sleepstage/course/workshop.html"' in page
