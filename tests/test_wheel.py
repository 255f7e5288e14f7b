"""The wheel, installed into a fresh environment away from the checkout, has every file and stages a night."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sleepstage as ss

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sleepstage"
NOT_PACKAGED = {"__pycache__", ".ipynb_checkpoints"}
SOURCES = ["pyproject.toml", "requirements.txt", "requirements-test.txt", "README.md", "LICENSE"]

HEADER_BYTES, RECORD_BYTES = 768, 12_000  # of the shipped night: a record is an epoch of two channels
N_EPOCHS = 120

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program that knows nothing of this checkout, and give what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build from a copy, so that no build folder of an earlier day slips in, and without a download."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "sleepstage", ignore=shutil.ignore_patterns(*NOT_PACKAGED))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", source / "dist", source, cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a new environment that finds the libraries, but not the package, of this one."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-index", "--no-deps"]
    run(*pip, wheel, cwd=folder.parent)
    (site,) = folder.rglob("site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = (path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file())
    expected = {path.as_posix() for path in files if not NOT_PACKAGED & set(path.parts)}
    inside = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if not name.partition("/")[0].endswith(".dist-info")
    }
    assert inside == expected


def test_the_installed_package_is_the_wheels_and_has_its_version(fresh, tmp_path):
    code = "import sleepstage as ss; print(ss.__file__); print(ss.__version__)"
    file, version = run(fresh / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(fresh.parent) and not Path(file).is_relative_to(ROOT)
    assert version == ss.__version__


def test_the_command_stages_a_night_from_there(fresh, tmp_path, smollm2_tokenizer):
    """One hour of the shipped night; the offline model is where `prepare` has put it."""
    night = ss.demo_paths()[0].read_bytes()
    records = HEADER_BYTES + N_EPOCHS * RECORD_BYTES
    header = bytearray(night[:HEADER_BYTES])
    header[236:244] = f"{N_EPOCHS:<8}".encode()
    (tmp_path / "hour.edf").write_bytes(bytes(header) + night[HEADER_BYTES:records])
    said = run(fresh / "sleepstage", "stage", "hour.edf", "--out", "hour.csv", cwd=tmp_path)
    assert f"{N_EPOCHS} of {N_EPOCHS} epochs" in said
    staged = pd.read_csv(tmp_path / "hour.csv")
    assert set(staged["predicted"]) <= set(ss.STAGES) and len(staged) == N_EPOCHS
    np.testing.assert_allclose(staged[list(ss.STAGES)].sum(axis=1), 1, atol=1e-6)
