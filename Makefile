# Every target works in a fresh clone: what it needs, and no more, is installed into .venv first.

VENV ?= .venv
BIN := $(VENV)/bin
# Each is newer than pyproject.toml when .venv holds that part of what it asks for: what serving needs, and what the
# tests, the checks and the generator need beside it. Each part builds on the first, and is installed when a target asks.
SERVE := $(VENV)/.serve
TEST := $(VENV)/.test
BENCH := $(VENV)/.bench
LINT := $(VENV)/.lint
PROTO := $(VENV)/.proto
SUPPLY := $(VENV)/.supply

# Where `make proto` writes; a test lets it write elsewhere and compares.
PROTO_OUT ?= client/python
PROTOS := $(wildcard proto/runtimestore/v1/*.proto)

# Where cargo builds the Rust crate: kept from one run to the next, and no part of the checkout.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/runtimestore-rust

# More arguments for the command behind a target: make test ARGS="-k boundary -x"
ARGS ?=

# How the tests run in parallel. More than two cores have: many of them wait for a clock or for a disk. Each more costs
# ten seconds of CPU before its first test.
PARALLEL ?= --numprocesses 3 --dist worksteal

# What a shell says of bytecode is not for the tests: without it each of their processes compiles all that it imports,
# and rewrites each assertion.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(SERVE) $(PROTO) $(TEST) $(BENCH) $(LINT) ## Make .venv with everything the other targets need
	@echo "$(VENV) has everything"

$(SERVE): pyproject.toml scripts/setup
	@scripts/setup $(VENV)
	@touch $@

# One after the other under `make -j` too: two runs of pip in one environment disturb each other.
$(PROTO): $(SERVE)
	@scripts/setup $(VENV) proto
	@touch $@

$(TEST): $(SERVE) $(PROTO)
	@scripts/setup $(VENV) test
	@touch $@

$(BENCH): $(SERVE) $(PROTO) $(TEST)
	@scripts/setup $(VENV) bench
	@touch $@

$(LINT): $(SERVE) $(PROTO) $(TEST) $(BENCH)
	@scripts/setup $(VENV) lint
	@touch $@

.PHONY: run
run: $(SERVE) ## Serve on 127.0.0.1:50051 from ./runtimestore.db; RUNTIMESTORE_… variables change that
	@$(BIN)/runtimestore serve $(ARGS)

.PHONY: demo
demo: $(SERVE) ## Watch one runtime live, die in the middle of a turn and recover
	@$(BIN)/python -m examples.recovery $(ARGS)

.PHONY: test
test: $(LINT) ## Run all tests, on every engine, a few at a time
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

.PHONY: test-fast
test-fast: $(LINT) ## Run the tests that take no fresh environment, no big document and no killed process
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

.PHONY: test-rust
test-rust: $(TEST) ## Check and test the Rust crate; its build is kept outside of the checkout
	@scripts/test-rust $(ARGS)

.PHONY: torture
torture: $(TEST) ## Run the tests of faults in their long form, under an hour; JSON in torture-latest.json
	@$(BIN)/python -m pytest tests/faults tests/crash tests/properties --torture --torture-report torture-latest.json $(ARGS)

.PHONY: figures
figures: $(TEST) ## Write the figures of the last `make torture` into docs/trials.md
	@$(BIN)/python -m scripts.figures torture-latest.json

.PHONY: lint
lint: $(LINT) ruff mypy imports buf ## Check style, types, which room imports which, and protos

.PHONY: ruff
ruff: $(LINT)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

.PHONY: mypy
mypy: $(LINT)
	@$(BIN)/mypy client/python server migrations bench scripts tests examples

# --no-cache: it takes a moment, and leaves no folder behind.
.PHONY: imports
imports: $(LINT)
	@$(BIN)/lint-imports --no-cache --no-logo

.PHONY: buf
buf: $(PROTO)
	@$(BIN)/buf lint proto
	@$(BIN)/buf format --diff --exit-code proto
	@PATH="$(abspath $(BIN)):$$PATH" scripts/buf-breaking

.PHONY: format
format: $(LINT) ## Put code and protos into their one form
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/buf format --write proto

# error_reason.proto has no service, so what the gRPC plugins write for it is empty and goes again.
.PHONY: proto
proto: $(PROTO) ## Generate the stubs in client/python/runtimestore/v1 from proto/
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto \
	    --python_out=$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) \
	    --mypy_out=quiet:$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) $(PROTOS)
	@rm -f $(PROTO_OUT)/runtimestore/v1/error_reason_pb2_grpc.py $(PROTO_OUT)/runtimestore/v1/error_reason_pb2_grpc.pyi

.PHONY: proto-rust
proto-rust: ## Generate the messages of the Rust crate, client/rust/src/v1.rs, from proto/
	@cargo run --manifest-path client/rust/Cargo.toml --package runtimestore-codegen --quiet

# Where `make sync-client` writes; a test lets it write elsewhere and compares.
SYNC_OUT ?= client/python/runtimestore/sync.py

.PHONY: sync-client
sync-client: $(LINT) ## Generate the client for threads from the one for asyncio
	@$(BIN)/python -m scripts.sync_client $(SYNC_OUT)

.PHONY: bench
bench: $(BENCH) ## Measure everything, in ten minutes, and write it into docs/benchmarks.md
	@$(BIN)/python -m bench $(ARGS)

# Upstream's state machine is not optimised, nor is its store then: the engine beneath both is.
.PHONY: bench-rust
bench-rust: $(TEST) ## Measure the Rust trait's own store in process beside the service
	@cargo run --manifest-path client/rust/Cargo.toml --package runtimestore-conformance --bin bench --release -- $(ARGS)

.PHONY: build
build: $(TEST) ## Build the sdist and the wheel into dist/
	@$(BIN)/python -m build

$(SUPPLY): $(SERVE)
	@scripts/setup $(VENV) supply
	@touch $@

# One file for every platform and Python: markers say what is for which. No index is named in them.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock" --extra server --extra otel $(ARGS)

.PHONY: lock
lock: $(SUPPLY) ## Write locks/: what is installed, with hashes; ARGS=--upgrade takes newer versions
	@$(UV_COMPILE) --output-file locks/server.txt >/dev/null
	@$(UV_COMPILE) --group dev --output-file locks/dev.txt >/dev/null

.PHONY: sbom
sbom: $(SUPPLY) ## Write sbom.json: what locks/server.txt has a server made of, as CycloneDX
	@$(BIN)/cyclonedx-py requirements locks/server.txt --pyproject pyproject.toml --output-reproducible --of JSON \
	    --output-file sbom.json

# A folder of advisories in OSV's format, for machines without a network; without it pip-audit asks the index.
ADVISORIES ?=

# --strict: what the index says nothing of has not been looked up.
.PHONY: audit
audit: $(SUPPLY) $(TEST) ## Look up locks/ in known vulnerabilities; offline with ADVISORIES=FOLDER
	@if [ -n "$(ADVISORIES)" ]; then $(BIN)/python -m scripts.audit "$(ADVISORIES)"; else \
	    $(BIN)/python -m scripts.audit --index $(BIN)/pip-audit --strict --requirement locks/server.txt \
	        --require-hashes --disable-pip --progress-spinner off $(ARGS); fi

.PHONY: check-compose
check-compose: ## Have Docker Compose read every file and profile; it is built where it is missing, with Go
	@scripts/check-compose

.PHONY: clean
clean: ## Remove what the other targets made; databases stay
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache examples/go/v1 examples/typescript/node_modules
	@find client server migrations bench scripts tests examples -name __pycache__ -type d -exec rm -rf {} +
