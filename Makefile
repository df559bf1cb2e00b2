# Everything runs from .venv, which each target makes and fills when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
# What follows the command: make test ARGS='-k ledger'
ARGS ?=
# Which benchmark: make bench WHAT=engine
WHAT ?= overhead
# How long, and from which seed: make soak MINUTES=10 SEED=7; make fuzz SECONDS=60
MINUTES ?= 10
SEED ?= 7
SECONDS ?= 60
# Tests wait more than they work.
PROCESSES ?= 4

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test long faults soak fuzz check format schemas errors train evaluate bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# `exec` leaves no shell between make and the command that could keep a signal to itself.
demo: $(INSTALLED) ## run the whole system on this machine
	@exec $(BIN)/arno demo $(ARGS)

# One thread: tests run beside each other's processes, and torch's threads on few cores only get in the way. A file's
# tests share what it starts, so that they stay together; and bytecode is kept, for all the processes that are started.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= exec $(BIN)/pytest
TOGETHER := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) ## run the tests, several at a time: PROCESSES=4
	@$(PYTEST) $(TOGETHER) $(ARGS)

long: $(INSTALLED) ## run the tests, those that take long too
	@$(PYTEST) $(TOGETHER) --long --timeout 3600 $(ARGS)

faults: $(INSTALLED) ## make everything fail that can, often, and count what is lost
	@$(PYTEST) tests/faults tests/shared/storage/test_storage_faults.py --long --timeout 3600 $(ARGS)

soak: $(INSTALLED) ## random faults for MINUTES=10, then count everything
	@OMP_NUM_THREADS=1 exec $(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED)

fuzz: $(INSTALLED) ## hostile input for SECONDS=60; needs pip install -e '.[fuzz]'
	@exec $(BIN)/python -m tests.fuzz.run $(SECONDS) $(ARGS)

check: $(INSTALLED) ## lint, formatting, types, and whether what is imported is required
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry shared producer workers

format: $(INSTALLED) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(INSTALLED) ## write the JSON Schemas of the messages to docs/schemas
	$(BIN)/python -m arno_shared.schemas docs/schemas

errors: $(INSTALLED) ## write the page of all error codes to docs/errors.md
	$(BIN)/python -m arno_shared.error_page docs/errors.md

train: $(INSTALLED) ## train the bundled model
	@exec $(BIN)/python -m arno_workers.tiny.train $(ARGS)

evaluate: $(INSTALLED) ## measure the bundled model
	@exec $(BIN)/python -m arno_workers.tiny.evaluate $(ARGS)

bench: $(INSTALLED) ## measure everything but the model; WHAT=engine and others: see docs/performance.md
	@exec $(BIN)/python bench/$(WHAT).py $(ARGS)

clean: ## remove what was built or cached; .venv and results stay
	rm -rf build dist demo-report device-report .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis
	find bench deploy producer shared tests workers -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' .ci/install
	@touch $@
