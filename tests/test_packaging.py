"""The lists of what to install agree, and the public names are there, explained, and quick to import."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sleepstage

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def requirements(lines):
    """Name and specifier of each requirement; conda's names become those of PyPI."""
    found = {}
    for line in lines:
        if text := line.partition("#")[0].strip():
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            found[CONDA_NAMES.get(name, name)] = requirement.specifier
    return found


def read(name):
    return requirements((ROOT / name).read_text(encoding="utf-8").splitlines())


def test_conda_installs_the_same_set_with_the_same_bounds():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    pip = [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]
    installed = requirements([*conda, *pip])
    assert len(installed) == len(conda) + len(pip), "a package is listed twice"
    assert installed.pop("python") == read_python_bound()
    installed.pop("pip")
    assert installed == read("requirements.txt")


def read_python_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Requirement("python" + project["requires-python"]).specifier


def test_every_requirement_has_a_lower_bound_and_a_tested_version_above_it():
    pinned = read("constraints.txt")
    for name, bound in read("requirements.txt").items():
        assert [part.operator for part in bound] == [">="], f"{name} needs one lower bound, has {bound}"
        assert name in pinned, f"constraints.txt does not pin {name}"
        (pin,) = pinned[name]
        assert pin.operator == "==", f"constraints.txt: {name}{pin} is not one version"
        assert bound.contains(pin.version, prereleases=True), f"{name} {pin.version} breaks {bound}"


@pytest.mark.parametrize("name", sleepstage.__all__)
def test_every_public_name_is_there_and_explained(name):
    thing = getattr(sleepstage, name)
    if inspect.isfunction(thing) or inspect.isclass(thing):
        assert inspect.getdoc(thing)
        assert thing.__module__.startswith("sleepstage.")


def test_an_unknown_name_is_refused_with_those_that_exist():
    name = "no_such_name"
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'; it has .*Stager"):
        getattr(sleepstage, name)


@pytest.mark.parametrize("use", ["", "; ss.load_table, ss.score, ss.PromptSpec, ss.plot_hypnogram"])
def test_reading_and_plotting_a_night_do_not_wait_for_torch(use):
    code = f"import sys, sleepstage as ss{use}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
