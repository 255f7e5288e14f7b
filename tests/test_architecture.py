"""The house: imports run down the way of the data and never back (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sleepstage

PACKAGE = Path(sleepstage.__file__).parent
ORDER = ("recordings", "features", "dataset", "finetuning", "staging", "evaluation", "plots", "course")
"""The chapters in the order of the data's way; each may import those before it."""

SHARED = ("files", "stages")
"""What stands beside the chapters: every chapter may import it, and it imports none."""


def modules(package: Path) -> dict[str, ast.Module]:
    """Every module's syntax tree by its dotted name, relative to the package."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def imported(name: str, tree: ast.Module, names: set[str]) -> set[str]:
    """The package's modules that a module imports: at its top, in functions, or for type checking only."""
    found = set()
    parts = name.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("sleepstage")):
            base = parts[: -node.level] if node.level else []
            base = [*base, *(node.module or "").removeprefix("sleepstage").strip(".").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                found.add(whole if whole in names else ".".join(base))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("sleepstage.") for alias in node.names
                      if alias.name.startswith("sleepstage.")}  # fmt: skip
    return found & names


def arrows(package: Path) -> dict[str, set[str]]:
    """Which module imports which, entrances (``__init__``, ``__main__``) left out: they import from all."""
    trees = modules(package)
    rooms = {name for name in trees if not name.endswith(("__init__", "__main__"))}
    return {name: imported(name, trees[name], rooms) for name in rooms}


def runs_back(arrow: tuple[str, str]) -> bool:
    chapters = [name.split(".")[0] for name in arrow]
    if chapters[0] in SHARED:
        return chapters[1] not in SHARED
    return chapters[1] not in SHARED and ORDER.index(chapters[0]) < ORDER.index(chapters[1])


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that are left when every module that imports none of the others is taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets & set(left)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return sorted(left)


def test_no_chapter_imports_a_later_one():
    back = {(name, target) for name, targets in arrows(PACKAGE).items() for target in targets}
    assert sorted(arrow for arrow in back if runs_back(arrow)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(arrows(PACKAGE)) == []


def test_every_chapter_is_known_and_says_what_it_is_for():
    chapters = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert chapters == sorted(ORDER)
    for name in chapters:
        assert ast.get_docstring(modules(PACKAGE)[f"{name}.__init__"]), name


@pytest.mark.parametrize(
    "line",
    [
        "from ..staging.stager import Stager",
        "def f():\n    from ..staging import stager",
        "if TYPE_CHECKING:\n    from ..staging.stager import Stager",
        "import sleepstage.staging.stager",
        "from sleepstage.staging import stager",
    ],
)
def test_an_import_that_runs_back_would_be_found(line):
    assert imported("features.extract", ast.parse(line), {"staging.stager"}) == {"staging.stager"}
    assert runs_back(("features.extract", "staging.stager"))


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
