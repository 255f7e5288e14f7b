"""``make offline-bundle`` makes a folder from which a fresh environment installs with the network refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sleepstage as ss

ROOT = Path(__file__).parent.parent


def run_shell(commands: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Type these lines, in one shell, as a student would; the first that fails stops the rest."""
    script = "\n".join(["set -e", *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def lines_for_linux(text: str) -> list[str]:
    block = text.split("Linux, macOS:")[1].split("Windows")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("SLEEPSTAGE_BUNDLE") != "1",
    reason="half a gigabyte of wheels and ten minutes or more: asked for by SLEEPSTAGE_BUNDLE=1",
)
@pytest.mark.skipif(sys.platform == "win32", reason="the lines that are typed are those for Linux and macOS")
def test_a_fresh_environment_installs_prepares_and_stages_without_a_network(tmp_path):
    bundle = tmp_path / "offline bundle"  # a USB stick's name may hold a space; make's may not
    made = tmp_path / "made"
    subprocess.run(
        ["make", "offline-bundle", f"PYTHON={sys.executable}", f"BUNDLE={made}"],
        cwd=ROOT,
        check=True,
        timeout=3000,
    )
    made.rename(bundle)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    nowhere = dict.fromkeys(["http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"], "http://127.0.0.1:9")
    paths = {"PIP_CONFIG_FILE": os.devnull, "PIP_CACHE_DIR": str(tmp_path / "pip")}
    paths |= {"SLEEPSTAGE_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    paths |= {"PATH": f"{Path(sys.base_prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"}  # not this venv's
    *install, last = lines_for_linux((bundle / "INSTALL.txt").read_text(encoding="utf-8"))
    assert last == "jupyter lab notebooks"
    stage = [
        f"python -m sleepstage stage '{ss.demo_paths()[0]}' --out '{tmp_path / 'night.csv'}'",
        "jupyter lab --version",
        "jupyter execute notebooks/01_download.ipynb notebooks/solutions/04_solutions.ipynb",
    ]
    run_shell([*install, *stage], bundle, kept | nowhere | paths)
    assert set(pd.read_csv(tmp_path / "night.csv")["predicted"]) == set(ss.STAGES)
