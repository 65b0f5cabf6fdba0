# The sacred commands: `make up` and `make test`. `make help` lists all.
SHELL := bash
.DEFAULT_GOAL := help

MODEL ?=
WORKERS ?=
PORT ?=
ARGS ?=
PROCESSES ?= 2
REQUESTS ?= 100000
SEED ?= 1

# With a model named and an NVIDIA GPU at hand, the GPU build of vLLM is used, in an environment of its own.
gpu := $(if $(MODEL),$(shell nvidia-smi -L >/dev/null 2>&1 && echo yes))
lock := $(if $(gpu),worker-gpu,worker-cpu)
venv := $(if $(gpu),.venv-gpu,.venv)
up_options := $(if $(MODEL),--model $(MODEL)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(PORT),--port $(PORT)) $(ARGS)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: ## Start everything on this machine: [MODEL=folder|ModelScope id] [WORKERS=n] [PORT=8080] [ARGS="further options"]
	@requirements/install $(lock) $(venv)
	@$(venv)/bin/sluice up $(up_options)

.PHONY: test
test: dev node ## Run all tests: [PROCESSES=2] [ARGS="pytest options"]
	.venv/bin/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: check
check: dev ## Format, lint, types, and the tidy tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -q tests/tidy

.PHONY: bench
bench: dev ## Measure the gateway's own cost, and what late binding does; some minutes
	.venv/bin/python -m tests.bench

.PHONY: chaos
chaos: dev ## Kill, flush and fill everything under load and audit the books: [REQUESTS=100000] [SEED=1] [ARGS="--database postgres"]
	@.venv/bin/python -m tests.chaos.run --requests $(REQUESTS) --seed $(SEED) $(ARGS)

.PHONY: dev
dev:
	@requirements/install dev

# The official Node SDK, for the tests that drive the gateway with it; without npm those tests are skipped.
.PHONY: node
node:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory tests/node/node_modules/.package-lock.json; fi

tests/node/node_modules/.package-lock.json: tests/node/package-lock.json
	cd tests/node && npm ci --no-fund --no-audit --loglevel=error
	@touch $@
