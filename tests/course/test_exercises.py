"""The exercise notebooks: stubs fail with a hint, solutions pass, both can be handed out."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from sleepstage.course import workshop

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NUMBERS = ["01", "02", "03", "04", "05"]
BOTH = [f"{kind}/{number}_{kind}" for kind in ("exercises", "solutions") for number in NUMBERS]
CHECK = re.compile(r'ss\.workshop\.check\("(\d\d\.\d)", (.+)\)')


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def verdicts(name: str) -> list[workshop.Verdict]:
    """Run a notebook's cells but the set-up, which is for Colab, and give what its checks say."""
    found, variables = [], {}
    for source in code(name)[1:]:
        if checked := CHECK.fullmatch(source):
            found.append(workshop.check(checked[1], eval(checked[2], variables)))
        else:
            exec(compile(source, name, "exec"), variables)
    return found


@pytest.mark.parametrize("number", NUMBERS)
def test_every_stub_fails_with_a_hint_that_says_what_to_do(number, smollm2_tokenizer):
    found = verdicts(f"exercises/{number}_exercises")
    assert len(found) >= 3
    for verdict in found:
        assert not verdict.passed
        assert re.search(r"fill in the stub|in place of the stub|expected a list of", verdict.message)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_solution_passes(number, smollm2_tokenizer):
    found = verdicts(f"solutions/{number}_solutions")
    assert len(found) >= 3
    assert all(found), found


def test_every_registered_exercise_is_set_and_solved_once_in_the_notebook_of_its_number():
    for kind in ("exercises", "solutions"):
        asked = {number: CHECK.findall("\n".join(code(f"{kind}/{number}_{kind}"))) for number in NUMBERS}
        assert all(key.startswith(number) for number, checks in asked.items() for key, _ in checks)
        assert [key for checks in asked.values() for key, _ in checks] == sorted(workshop.exercises())


@pytest.mark.release
def test_the_teacher_finds_every_exercise_in_the_guide():
    guide = (NOTEBOOKS.parent / "docs" / "TEACHING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d\d\.\d) \|", guide, re.MULTILINE) == sorted(workshop.exercises())


@pytest.mark.release
@pytest.mark.parametrize("number", NUMBERS)
def test_solutions_are_of_the_same_tasks(number):
    exercises, solutions = (read(f"{kind}/{number}_{kind}").cells for kind in ("exercises", "solutions"))
    assert [cell.id for cell in exercises] == [cell.id for cell in solutions]
    for exercise, solution in zip(exercises[1:-1], solutions[1:-1], strict=True):
        assert (exercise.source == solution.source) != exercise.id.startswith("answer")


@pytest.mark.release
@pytest.mark.parametrize("name", BOTH)
def test_notebook_opens_with_title_badge_and_time_and_ends_with_a_link_back(name):
    first, last = read(name).cells[0].source, read(name).cells[-1].source
    assert first.startswith("# ")
    assert f"/sleepstage/blob/main/notebooks/{name}.ipynb)" in first
    assert "**Time:**" in first and "**Needs:**" in first
    links = re.findall(r"\]\((\.\./[^)]+)\)", first + last)
    assert re.search(r"\(\.\./0\d_\w+\.ipynb\)", last)
    assert all((NOTEBOOKS / name).parent.joinpath(link).is_file() for link in links)


@pytest.mark.release
@pytest.mark.parametrize("name", BOTH)
def test_set_up_is_that_of_the_notebooks(name):
    assert code(name)[0] == code("01_download")[0]


@pytest.mark.release
@pytest.mark.parametrize("number", NUMBERS)
def test_exercises_are_handed_out_empty_and_solutions_as_a_clean_run(number):
    cells = [cell for cell in read(f"exercises/{number}_exercises").cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    cells = [cell for cell in read(f"solutions/{number}_solutions").cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [SimpleNamespace(cell=cell, output=output) for cell in cells for output in cell.outputs]
    assert not [each for each in shown if each.output.output_type in ("error", "display_data")]
    assert not [each for each in shown if each.output.get("name") == "stderr"]
    passed = [each for each in shown if CHECK.fullmatch(each.cell.source)]
    assert len(passed) >= 3
    assert all(" passed: " in each.output.data["text/plain"] for each in passed)
