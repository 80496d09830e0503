# make demo: the whole thing on the bundled corpus.  make test: lint, types and tests.  Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
SOURCES := pyproject.toml

.PHONY: demo test check setup clean

demo: $(VENV)/.demo
	$(BIN)/weft demo --out runs/demo --overwrite

test: $(VENV)/.dev
	$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

setup: $(VENV)/.dev

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python $(SOURCES)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.python $(SOURCES)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
