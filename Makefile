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
# In a new clone, each of the processes would otherwise compile the modules (pytest compiles files of tests by itself).
TESTS := $(BIN)/python -m compileall -q -x /test_ domain gateway workers tests && $(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder --sample-seed $(SAMPLE_SEED) --ignore tests/test_architecture.py

# The processes would each compile every test anew where the environment forbids to keep what was compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^#: / {printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

#: Start

setup: .venv/.installed ## install the locked dependencies into .venv (a second call takes a second)

# Python 3.11's venv brings a setuptools that is not locked and that nothing needs.
.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@test ! -L .venv || { echo ".venv is a link. Run make setup in the folder that it leads to."; exit 1; }
	@rm -f $@
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip uninstall --quiet --yes --disable-pip-version-check setuptools
	@touch $@

demo: setup ## play three payments and show the life of each (less than a minute)
	@$(BIN)/python -m tests.stack demo

run: setup ## start the whole stack and keep it running; print a token and a curl line to try
	@$(BIN)/python -m tests.stack run

lock: setup ## write both lock files from pyproject.toml (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url --extra dev --quiet -o requirements.lock pyproject.toml
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url --quiet -c requirements.lock -o deploy/requirements-product.lock pyproject.toml

#: Check

check: setup ## check format, lint, types, imports, architecture, licences and known vulnerabilities (no servers)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q tests/test_architecture.py
	@$(BIN)/python -m tests.supply_chain

test: setup ## run a sample of all tests, in minutes (T=path: all tests there; DATABASE_URL, REDIS_URL: your servers)
	$(TESTS) --part $(if $(filter tests,$(T)),sample,all) $(T)

test-all: setup ## run the tests that `make test` leaves out: long proofs, the other cases of large tables
	$(TESTS) --part rest

test-pooler: setup ## run the spec tests through a PgBouncer that has two connections to PostgreSQL (needs pgbouncer)
	export THROUGH_POOLER=1; $(TESTS) --part all tests/spec

#: Prove

crash: setup ## kill real processes at every crash point; take every protection away (CRASH_LANES=2 systems at once)
	$(PYTEST) tests/proof/crash tests/proof/failpoints --all-combinations

interleavings: setup ## play a million lives of one payment in virtual time, judged by a model of Daraja (minutes)
	@$(BIN)/python -m tests.proof.interleavings --runs 1000000 --seed 1

proof: setup ## lose a thousand answers at once; each payment is paid once (minutes)
	LARGE_NUMBERS=1 $(PYTEST) tests/spec/test_large_numbers.py

soak: setup ## kill, freeze and cut off everything under load, then judge each payment (MINUTES=20, SEED=, REPORT=file)
	@$(BIN)/python -m tests.proof.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

fuzz: setup ## send requests made from /openapi.json by schemathesis (MINUTES=20, SEED=)
	FUZZ_MINUTES=$(MINUTES) SEED=$(SEED) $(PYTEST) -n 0 -s tests/fuzz

#: Measure

bench: setup ## measure speed beside floors and a plain service (BASE=commit, CASES=accepts,lives, TURNS=3, REPORT=file)
	@$(BIN)/python -m tests.benchmarks $(if $(BASE),--base $(BASE)) $(if $(CASES),--cases $(CASES)) $(if $(TURNS),--turns $(TURNS)) $(if $(REPORT),--json $(REPORT))

.PHONY: help setup demo run lock check test test-all crash interleavings proof soak fuzz bench
