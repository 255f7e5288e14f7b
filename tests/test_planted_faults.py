"""Faults are planted in a copy of the package, one at a time: the tests that are there for them must fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

RECORDING, TEXT, PROPERTIES = "test_recording.py", "test_hypnogram_text.py", "test_properties.py"
# What is planted: the module, what stands there, what is put in its place; and the tests that must notice, by
# their file and words of their names.
FAULTS = {
    "a hypnogram one epoch late": (
        (
            "hypnogram",
            "first = np.rint(onset_s / EPOCH_S).astype(int)",
            "first = np.rint(onset_s / EPOCH_S).astype(int) + 1",
        ),
        [
            (RECORDING, "aligned_by_the_start_times"),
            (TEXT, "the_same_stages_from_text"),
            (PROPERTIES, "merged_spans"),
        ],
    ),
    "a hypnogram one epoch early": (
        (
            "hypnogram",
            "inside = slice(max(0, begin), max(0, end))",
            "inside = slice(max(0, begin - 1), max(0, end - 1))",
        ),
        [
            (RECORDING, "aligned_by_the_start_times"),
            (PROPERTIES, "missing_stages"),
            (PROPERTIES, "the_real_night"),
        ],
    ),
    "start times that are not looked at": (
        ("hypnogram", "return (hypnogram_start - psg_start).total_seconds()", "return 0.0"),
        [(RECORDING, "aligned_by_the_start_times"), (PROPERTIES, "starts_on_the_grid")],
    ),
    "volts left as volts": (
        ("recording", "signal_uv = 1e6 *", "signal_uv = 1 *"),
        [(RECORDING, "in_microvolts or equals_the_published_table"), (PROPERTIES, "true_units")],
    ),
    "a unit that nobody checks": (
        ("amplitude", "if low <= amplitude_uv <= high:", "if True:"),
        [(RECORDING, "units_are_told_apart"), (PROPERTIES, "wrong_units or units_of_dictionaries")],
    ),
    "wake cut one epoch too far in before sleep": (
        ("recording", "max(0, int(sleep[0]) - margin)", "max(0, int(sleep[0]) - margin + 1)"),
        [(RECORDING, "wake_margin_keeps_exactly"), (PROPERTIES, "wake_margins")],
    ),
    "wake cut one epoch too far in after sleep": (
        ("recording", "int(sleep[-1]) + 1 + margin", "int(sleep[-1]) + margin"),
        [(RECORDING, "wake_margin_keeps_exactly"), (PROPERTIES, "wake_margins")],
    ),
    "stages that are not cut with their epochs": (
        (
            "recording",
            "stages=None if stages is None else stages[kept]",
            "stages=None if stages is None else stages[: kept.stop - kept.start]",
        ),
        [(RECORDING, "wake_margin_keeps_exactly"), (PROPERTIES, "wake_margins")],
    ),
    "a start that is not moved with the cut": (
        ("recording", "+ EPOCH_S * kept.start", "+ 0 * kept.start"),
        [(RECORDING, "wake_margin_keeps_exactly")],
    ),
    "lights-off that moves the signal and not the hypnogram": (
        (
            "hypnogram",
            "cut_s = 0.0 if spans.counted or lights_off_s is None else lights_off_s",
            "cut_s = 0.0",
        ),
        [(RECORDING, "counted_from_lights_off"), (PROPERTIES, "lights_off_by_the_clock")],
    ),
    "samples before the first one counted": (
        ("recording", "began + timedelta(seconds=raw.first_time)", "began"),
        [(RECORDING, "begins_where_its_samples_do")],
    ),
    "movement time scored as wake": (
        ("stages", '"Movement time": UNSCORED', '"Movement time": 0'),
        [(RECORDING, "fragment_at_the_end"), (PROPERTIES, "missing_stages")],
    ),
    "clipping looked for after resampling": (
        ("recording", "quality=None if quality is None else quality[kept]", "quality=None"),
        [(RECORDING, "before_resampling"), (PROPERTIES, "clipped_at_other_rates")],
    ),
    "a person on both sides": (
        ("splits", "    if both:", "    if False:"),
        [("test_splits.py", "on_both_sides or hides_nobody")],
    ),
    "text across a gap": (
        ("windows", " | (np.diff(epoch) != 1)", ""),
        [("test_contest.py", "from_the_folder_to_scores or gaps_in_the_numbers")],
    ),
    "a pickle that may ask for anything": (
        (
            "array_pickle",
            "if (module, name) not in self.STAND_INS:",
            "return super().find_class(module, name)\n        if (module, name) not in self.STAND_INS:",
        ),
        [("test_array_pickle.py", "run_code"), ("test_array_pickle.py", "by_hand")],
    ),
    "extension codes from the cache": (
        ("array_pickle", "copyreg.clear_extension_cache()", "pass"),
        [("test_array_pickle.py", "by_hand and extension")],
    ),
    "an archive that may write anywhere": (
        ("archive", 'if absolute or ".." in parts:', "if False:"),
        [("test_contest.py", "leave_the_folder")],
    ),
    "tables of old definitions": (
        ("sleep_edf", "-definitions{DEFINITIONS_VERSION}", ""),
        [("test_sleep_edf.py", "change_of_definitions")],
    ),
}

# That a property fails is enough to know here; its smallest example takes minutes.
NO_SHRINKING = """
import hypothesis

hypothesis.settings.register_profile("planted", phases=[hypothesis.Phase.generate])
hypothesis.settings.load_profile("planted")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests; the shipped data are linked."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(
        ROOT / "sleepstage", root / "sleepstage", ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    (root / "sleepstage" / "data").symlink_to(ROOT / "sleepstage" / "data")
    shutil.copytree(ROOT / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    with (root / "tests" / "conftest.py").open("a", encoding="utf-8") as conftest:
        conftest.write(NO_SHRINKING)
    return root


def failed_files(root: Path, tests: list[tuple[str, str]]) -> tuple[set[str], str]:
    """Run those tests on the copy; in which files some failed or could not start, and what pytest wrote."""
    files = [f"tests/{file}" for file in sorted({file for file, _ in tests})]
    words = " or ".join(sorted({f"({words})" for _, words in tests}))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *files, "-k", words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 2 to 5: they were not run
    return set(re.findall(r"^(?:FAILED|ERROR) tests/(\w+\.py)", done.stdout, re.MULTILINE)), done.stdout


def test_without_a_fault_they_pass(copy):
    failed, text = failed_files(copy, [test for _, tests in FAULTS.values() for test in tests])
    assert not failed, text


@pytest.mark.parametrize("fault", FAULTS)
def test_the_tests_that_are_there_for_a_fault_catch_it(fault, copy):
    (module, right, wrong), tests = FAULTS[fault]
    path = copy / "sleepstage" / f"{module}.py"
    whole = path.read_text(encoding="utf-8")
    assert whole.count(right) == 1, f"{module}.py changed: {right!r} stands there {whole.count(right)} times"
    path.write_text(whole.replace(right, wrong), encoding="utf-8")
    try:
        failed, text = failed_files(copy, tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    unaware = {file for file, _ in tests} - failed
    assert not unaware, f"{sorted(unaware)} did not notice {fault}:\n{text}"
