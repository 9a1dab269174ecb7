# Everything here needs Python >= 3.11 and make; the rest comes into .venv from the lock file.

PYTHON ?= python3
BIN := .venv/bin
T ?= tests
MINUTES ?= 20
PYTEST := $(BIN)/python -m pytest
# Seven files of tests at a time: most of their time is waiting. Servers that were given are shared, and then tests take turns.
JOBS ?= $(if $(DATABASE_URL)$(REDIS_URL),0,7)
SAMPLE_SEED ?= 1
# `make check` runs the tests of the architecture.
TESTS := $(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder --sample-seed $(SAMPLE_SEED) --ignore tests/test_architecture.py

# The processes would each compile every test anew where the environment forbids to keep what was compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: .venv/.installed ## make .venv with the locked dependencies (a second call takes a second)

# Python 3.11's venv brings a setuptools that is not locked and that nothing needs.
.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@rm -f $@
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip uninstall --quiet --yes --disable-pip-version-check setuptools
	@touch $@

demo: setup ## three payments live and settle before your eyes
	@$(BIN)/python -m tests.stack demo

run: setup ## the whole stack, kept running, with a token and a curl line to try
	@$(BIN)/python -m tests.stack run

test: setup ## a sample of all tests in minutes, on embedded servers or those in DATABASE_URL and REDIS_URL (T=path: all of those)
	$(TESTS) --part $(if $(filter tests,$(T)),sample,all) $(T)

test-all: setup ## the tests that `make test` left out: long proofs, and the other cases of large tables
	$(TESTS) --part rest

check: setup ## format, lint, types, import rules, architecture, licences, known vulnerabilities (no servers)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q tests/test_architecture.py
	@$(BIN)/python -m tests.supply_chain

interleavings: setup ## a million lives of one payment in every order, judged by a model of Daraja (minutes)
	@$(BIN)/python -m tests.proof.interleavings --runs 1000000 --seed 1

proof: setup ## a thousand payments at once whose answers are lost, and their like: each paid once (some minutes)
	LARGE_NUMBERS=1 $(PYTEST) tests/spec/test_large_numbers.py

bench: setup ## benchmarks, as ratios measured in one run
	@$(BIN)/python -m tests.benchmarks

soak: setup ## load while everything is killed, then a judge (MINUTES=20, SEED=, REPORT=file)
	@$(BIN)/python -m tests.proof.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

fuzz: setup ## schemathesis over /openapi.json for some minutes (MINUTES=20, SEED=)
	FUZZ_MINUTES=$(MINUTES) SEED=$(SEED) $(PYTEST) -n 0 -s tests/fuzz

crash: setup ## every crash point in every combination, and every protection taken away (CRASH_LANES=2 systems at once)
	$(PYTEST) tests/proof/crash tests/proof/failpoints --all-combinations

lock: setup ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url --extra dev --quiet -o requirements.lock pyproject.toml

.PHONY: help setup demo run test test-all check proof crash interleavings soak bench fuzz lock
