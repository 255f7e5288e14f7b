# Two commands: `make demo` and `make test`. Both set up .venv first, if it is not there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test test-slow notebooks lint

setup: $(VENV)/ready

# Constraints pin what CI ran. Without a GPU, install PyTorch's CPU build first to save gigabytes (README).
$(VENV)/ready: pyproject.toml requirements.txt requirements-test.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(RUN) -m sleepstage prepare
	touch $@

demo: setup
	FAST=$(FAST) $(RUN) -m sleepstage demo

test: setup lint
	$(RUN) -m pytest -m "not slow"

test-slow: setup
	$(RUN) -m pytest -m slow

# Runs all five in full (about ten minutes on two cores) and keeps their outputs.
notebooks: setup
	$(RUN) notebooks/refresh.py

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
