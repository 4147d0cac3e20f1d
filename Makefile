# One command does what CI does. `make help` lists the commands.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CACHE := $(or $(ANABRANCH_CACHE),$(CURDIR)/.cache)
VENV := $(CACHE)/venv
TOOLS := $(CACHE)/tools
export ANABRANCH_CACHE := $(CACHE)
export ANABRANCH_PYTHON := $(VENV)/bin/python
export PATH := $(TOOLS)/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

.PHONY: demo
demo: setup-demo ## Set everything up and run the main job on the 2013 New York flights
	@scripts/python-package
	@$(VENV)/bin/python demo/flights.py

.PHONY: test
test: setup lint doc test-rust test-python test-demo ## Set everything up and run every check and test
	@echo "all checks and tests passed"

.PHONY: bench
bench: ## Run the side-by-side benchmarks (release build)
	@scripts/setup bench
	@scripts/bench

.PHONY: setup-demo
setup-demo:
	@scripts/setup demo

.PHONY: setup
setup: ## Only the set-up of the tests
	@scripts/setup test

.PHONY: lint
lint: ## Format, clippy, licences, unused dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --all-features check bans licenses sources
	cargo machete

.PHONY: doc
doc: ## Documentation without warnings (a table of contents may link to private modules)
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --locked --quiet

.PHONY: test-rust
test-rust:
	cargo test --workspace --locked

.PHONY: test-python
test-python:
	@scripts/python-package
	$(VENV)/bin/python -m pytest -q sdk/python/tests docs/tests

.PHONY: test-demo
test-demo:
	$(VENV)/bin/python demo/flights.py --months 2 --quick

.PHONY: clean
clean: ## Remove what was built and downloaded here
	rm -rf target .cache
