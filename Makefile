# Everything that is ever typed. `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
KILLS ?= 200
SEED ?=
WORKERS ?= 3
COVERAGE := $(CURDIR)/build/coverage
FAULTS := tests/faults tests/test_crash.py tests/test_facts_bounds.py tests/test_first_use.py tests/test_flawed_records.py \
  tests/test_generated_requests.py tests/test_ledger_processes.py tests/test_openapi.py tests/test_queries.py

.PHONY: help setup demo test faults check fix bench lock clean
help:            ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 12

.venv/.ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/.ready   ## make .venv and nothing else

demo: setup      ## the whole product on this machine; `make demo ARGS=--once` ends by itself
	$(BIN)/tocsin demo $(ARGS)

test: setup      ## the whole suite, and how many lines it ran; `make test ARGS=tests/test_flow.py` is a part of it
	@rm -rf $(COVERAGE) && mkdir -p $(COVERAGE)
	COVERAGE_FOLDER=$(COVERAGE) PYTHONPATH=$(CURDIR)/tests/support/coverage \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=25 $(ARGS)
	$(if $(ARGS),,$(BIN)/python tests/support/coverage/report.py $(COVERAGE))

faults: setup    ## 200 times kill -9, stores that fail, 32 worlds of questions, 20,000 broken requests, all examples of every law; `make faults KILLS=40 SEED=…` repeats a run
	FAULT_KILLS=$(KILLS) FAULT_SEED=$(SEED) THOROUGH=1 $(BIN)/python -m pytest -s $(FAULTS) $(ARGS)
	THOROUGH=1 $(BIN)/python -m pytest -m hypothesis $(FAULTS:%=--ignore=%) $(ARGS)

check: setup     ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup       ## what the tools can mend by themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup     ## the numbers of docs/benchmarks.md
	$(BIN)/tocsin bench accept $(ARGS)
	$(BIN)/tocsin bench dispatch $(ARGS)
	$(BIN)/tocsin bench transactional $(ARGS)
	$(BIN)/tocsin bench audience $(ARGS)
	$(BIN)/tocsin bench ingest $(ARGS)
	$(BIN)/tocsin bench neighbours $(ARGS)

lock: setup      ## compile both lock files anew (needs uv on the PATH)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock

clean:           ## remove .venv and caches
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
