"""Colab, as far as it can be tested elsewhere: what installing would move there, and our few functions.

``colab/python-*.txt`` list what Colab had installed, ``colab/added.json`` what a resolver added to it and
what that requires. Without a network our bounds are compared with these; with one, pip resolves them anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sleepstage.course import colab

ROOT = Path(__file__).parents[2]
SAVED = Path(__file__).parent / "colab"
PYTHONS = ["3.12", "3.13"]
CUDA = re.compile("nvidia|cuda|triton")  # Colab's torch brings others of these than the index's does


def requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def installed_on_colab(python):
    pins = requirements(SAVED / f"python-{python}.txt")
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


def added():
    """Name, version and requirements of what is not on Colab yet."""
    saved = json.loads((SAVED / "added.json").read_text(encoding="utf-8"))
    return {Requirement(pin): [Requirement(line) for line in lines] for pin, lines in saved.items()}


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("python", PYTHONS)
def test_no_bound_of_ours_or_of_what_we_add_moves_what_colab_has(python):
    there = installed_on_colab(python)
    ours = requirements(ROOT / "requirements.txt")
    new = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in added()}
    assert not new.keys() & there.keys()
    for requirement in [*ours, *(line for lines in added().values() for line in lines)]:
        name = canonicalize_name(requirement.name)
        assert name in there or name in new, f"{requirement} is not on Colab: run the slow test, add it"
        found = there.get(name) or new[name]
        assert requirement.specifier.contains(found, prereleases=True), f"{requirement}: Colab has {found}"


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_a_resolver_finds_a_way_that_moves_nothing(python, tmp_path):
    there = installed_on_colab(python)
    tags = [*(f"_2_{minor}" for minor in range(35, 4, -1)), "2014", "2010", "1"]
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in tags]
    as_there = [
        *platforms,
        f"--python-version={python}",
        "--only-binary=:all:",
        f"--target={tmp_path / 'to'}",
    ]
    reached = pip(*as_there, "--no-deps", "gguf")
    if reached.returncode:
        pytest.skip(f"pip reaches no package index: {reached.stderr.strip().splitlines()[-1:]}")
    kept = {name: found.partition("+")[0] for name, found in there.items() if not CUDA.match(name)}
    constraints, report = tmp_path / "colab.txt", tmp_path / "report.json"
    constraints.write_text("".join(f"{name}=={found}\n" for name, found in kept.items()))
    wanted = ["--report", report, "--constraint", constraints, "--requirement", ROOT / "requirements.txt"]
    resolved = pip(*as_there, *wanted)
    assert resolved.returncode == 0, resolved.stderr
    packages = [package["metadata"] for package in json.loads(report.read_text())["install"]]
    chosen = {canonicalize_name(package["name"]): package["version"] for package in packages}
    moved = {name: found for name, found in chosen.items() if kept.get(name, found) != found}
    assert not moved
    new = {name for name in chosen.keys() - there.keys() if not CUDA.match(name)}
    # pip reads markers for the Python that runs it, which may ask for a little more than Colab's would.
    assert {canonicalize_name(pin.name) for pin in added()} <= new


@pytest.mark.slow
def test_widgets_work_with_colabs_ipywidgets(tmp_path):
    there = installed_on_colab("3.13")
    pins = [f"{name}=={there[name]}" for name in ("ipywidgets", "ipython")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", f"--target={tmp_path}", *pins]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if installed.returncode:
        pytest.skip(f"pip cannot get {pins}: {installed.stderr.strip().splitlines()[-1:]}")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/plots/test_widgets.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert told.returncode == 0, told.stdout


def test_versions_that_are_compared_are_those_that_pip_knows():
    """Otherwise a restart would be asked for again and again."""
    for module, package in colab.LOADED_EARLY.items():
        assert __import__(module).__version__.partition("+")[0] == version(package).partition("+")[0]
    assert colab.replaced_packages() == {}
    colab.check_restart()


def test_a_build_of_the_same_version_is_no_replacement(monkeypatch):
    same, other = (
        SimpleNamespace(__version__=f"{version('torch')}+cu130"),
        SimpleNamespace(__version__="2.1+cu130"),
    )
    monkeypatch.setitem(sys.modules, "torch", same)
    assert colab.replaced_packages() == {}
    monkeypatch.setitem(sys.modules, "torch", other)
    assert colab.replaced_packages() == {"torch": ("2.1+cu130", version("torch"))}


def test_a_package_that_was_replaced_after_it_was_loaded_asks_for_a_restart(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(__version__="1.2.3"))
    assert colab.replaced_packages() == {"numpy": ("1.2.3", version("numpy"))}
    expected = rf"numpy 1\.2\.3 is loaded, {re.escape(version('numpy'))} installed\. Choose Runtime → Restart"
    with pytest.raises(RuntimeError, match=expected):
        colab.check_restart()


def test_a_package_that_was_removed_is_told_and_one_that_is_not_loaded_is_not(monkeypatch):
    monkeypatch.setattr(colab, "LOADED_EARLY", {"re": "no-such-package", "no_such_module": "numpy"})
    monkeypatch.setattr(re, "__version__", "2.2.1", raising=False)
    assert colab.replaced_packages() == {"no-such-package": ("2.2.1", "none")}


def test_checking_loads_no_package_that_could_be_there_in_halves():
    code = "import sys; import sleepstage as ss; ss.check_restart(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.fixture
def fake_colab(monkeypatch):
    """Give the list of what was mounted on a Colab that is none."""
    mounted = []
    google, package = ModuleType("google"), ModuleType("google.colab")
    package.drive = SimpleNamespace(mount=mounted.append)
    google.colab = package
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    return mounted


def test_drive_is_mounted_only_when_asked(fake_colab):
    assert colab.data_folder() == Path("sleepstage-data")
    assert fake_colab == []
    assert colab.data_folder(drive=True) == Path("/content/drive/MyDrive/sleepstage-data")
    assert fake_colab == ["/content/drive"]


def test_drive_elsewhere_is_refused():
    with pytest.raises(ValueError, match="on Colab only; here, set DRIVE = False"):
        colab.data_folder(drive=True)


FAKE_SECRETS = """
import builtins, os, sys
from types import ModuleType

class NotebookAccessError(Exception): pass
class SecretNotFoundError(Exception): pass

def get(name):
    if {secret!r} is None:
        raise SecretNotFoundError(name)
    return {secret!r}

builtins.get_ipython = lambda: "google.colab._shell.Shell"
google, colab, errors, userdata = (
    ModuleType(f"google{{part}}") for part in ("", ".colab", ".colab.errors", ".colab.userdata")
)
errors.Error = Exception
userdata.get, userdata.NotebookAccessError = get, NotebookAccessError
userdata.SecretNotFoundError = SecretNotFoundError
google.colab, colab.userdata, colab.errors = colab, userdata, errors
sys.modules |= {{module.__name__: module for module in (google, colab, errors, userdata)}}
import huggingface_hub

print(huggingface_hub.get_token())
"""


@pytest.mark.parametrize("secret", ["hf_of_a_secret", None])
def test_the_hub_reads_colabs_secret_by_itself_and_does_without(secret, tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FAKE_SECRETS.format(secret=secret)],
        env=environment | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout.strip() == str(secret), told.stderr


RUN_SET_UP = """
import sys
from types import ModuleType, SimpleNamespace

from IPython.core.interactiveshell import InteractiveShell

sys.modules["google.colab"] = ModuleType("google.colab")
if {replaced}:
    sys.modules["numpy"] = SimpleNamespace(__version__="1.2.3")
sys.executable = {stub!r}
print(repr(InteractiveShell.instance().run_cell({cell!r}).error_in_exec))
"""


@pytest.mark.parametrize(
    ("replaced", "fails", "told"),
    [
        (False, False, "^None"),
        (True, False, "RuntimeError.*Restart session"),
        (False, True, "RuntimeError.*pip could not install.*again"),
    ],
)
def test_set_up_cell_installs_beside_what_is_there_or_says_what_to_do(replaced, fails, told, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "02_features.ipynb", as_version=4)
    cell = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    saved, calls, stub = tmp_path / "colab.txt", tmp_path / "calls.txt", tmp_path / "python"
    stub.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\necho numpy==1.2.3\n[ $3 = list ] || exit {int(fails)}\n'
    )
    stub.chmod(0o755)
    script = RUN_SET_UP.format(
        replaced=replaced, stub=str(stub), cell=cell.replace("/tmp/colab.txt", str(saved))
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.search(told, done.stdout.strip().splitlines()[-1]), done
    listing, installing = calls.read_text().splitlines()
    assert listing == "-m pip list --format=freeze --exclude sleepstage"
    assert saved.read_text() == "numpy==1.2.3\n"
    assert installing.startswith(f"-m pip install --quiet --constraint {saved} sleepstage @ git+")
