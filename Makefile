# make demo: the whole thing on the bundled corpus.  make test: lint, types, tests and the site.  make docs: the site.
# make bench, make bench-gpu: speed beside baselines.  Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt
BENCH_THREADS ?= 2
# Not --quiet: what is not logged is not counted by --strict.
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
export PYTHONDONTWRITEBYTECODE = # byte code is kept, whatever the shell says: pip leaves making it to the first import
BENCH ?= # for example: make bench BENCH="--only train,decode"

.PHONY: demo test check docs bench bench-gpu setup clean

demo: $(VENV)/.demo
	$(BIN)/weft demo --out runs/demo --overwrite

test: $(VENV)/.dev
	$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
	$(SITE)

docs: $(VENV)/.docs
	$(SITE)
	@echo "The site: build/site/index.html"

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.speed --device cpu --threads $(BENCH_THREADS) $(BENCH)

bench-gpu: $(VENV)/.bench-gpu
	$(BIN)/python -m benchmarks.speed --device cuda --threads $(BENCH_THREADS) $(BENCH)

setup: $(VENV)/.dev

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python $(SOURCES)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.python $(SOURCES)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: $(VENV)/.python $(SOURCES)
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/.bench: $(VENV)/.python $(SOURCES) benchmarks/requirements.txt
	$(PIP) --editable . --requirement benchmarks/requirements.txt
	touch $@

$(VENV)/.bench-gpu: $(VENV)/.python $(SOURCES) benchmarks/requirements.txt benchmarks/requirements-gpu.txt
	$(PIP) --editable . --requirement benchmarks/requirements-gpu.txt
	touch $@ $(VENV)/.bench

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
