# Every command of this project. Each target does its own set-up; CI calls the
# same ones. `make` alone lists them.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check unit scenarios lab-up lab-down bench generate

SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin:/usr/local/go/bin

BUILT = $(or $(CARGO_TARGET_DIR),target)/debug
FAULTLINE = $(BUILT)/faultline
LAB = cargo run --locked --quiet -p e2e --bin lab --
LAB_RECORD = $(or $(FAULTLINE_LAB_DIR),/var/tmp/faultline-lab)/record.json
LAB_TESTS = lab_smoke kernel_lab scenarios

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## two clusters in one process: a fault written on one runs on the other (ARGS=--json)
	@e2e/setup.sh demo
	cargo build --locked -p cli
	@$(FAULTLINE) demo $(ARGS)

test: ## every test that this machine can run; says what it skipped, and why
	@e2e/setup.sh test
	@$(MAKE) --no-print-directory check unit scenarios

check: ## format, lints, dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if ! cargo deny --version > /dev/null 2>&1; then \
		echo "SKIPPED cargo deny: it is not installed (cargo install --locked cargo-deny)"; \
	elif cargo deny fetch db > /dev/null 2>&1; then \
		cargo deny check; \
	else \
		echo "SKIPPED cargo deny check advisories: their database cannot be reached"; \
		cargo deny check bans licenses sources; \
	fi

# The Kubernetes programs come first where the lab will run: the tests of the
# charts use their helm. A lab that a killed run left would slow down what has time limits: CI takes it away first.
# Elsewhere it may be one that somebody uses; the scenarios replace it all the same.
unit:
	@if [ -z "$$(e2e/setup.sh why-no-lab)" ]; then \
		if [ ! -e "$(LAB_RECORD)" ]; then :; \
		elif [ "$$CI" = true ]; then $(LAB) down || exit; \
		else echo "NOTE: a lab is up, and slows these tests down; make lab-down takes it away"; fi; \
		e2e/lab/components.sh > /dev/null; \
	fi
	cargo test --locked --workspace --no-fail-fast

# Takes the faultline binary that `unit` built: alone, it would show an older one. With `cargo run` for `lab`, cargo
# would leave the features of the tests' dependencies out and build everything again.
scenarios:
	@why="$$(e2e/setup.sh why-no-lab)"; \
	if [ -n "$$why" ]; then \
		echo "SKIPPED the scenarios on two real clusters: $$why"; \
	else \
		export FAULTLINE_LAB=1; set -x; \
		cargo test --locked --workspace $(LAB_TESTS:%=--test %) --no-fail-fast -- --test-threads=1; \
		code=$$?; $(BUILT)/lab down; exit $$code; \
	fi

lab-up: ## two real clusters on this machine, with Faultline installed; prints the kubeconfigs (root)
	@e2e/setup.sh lab
	cargo build --locked -p cli
	@$(LAB) product

lab-down: ## takes them away again
	@$(LAB) down

bench: ## how long it takes until a fault is there, beside a floor; writes docs/benchmarks.md (root; ARGS=single|fleet prints one)
	@e2e/setup.sh lab
	cargo build --locked --release -p cli -p e2e --bin faultline --bin bench
	@$(or $(CARGO_TARGET_DIR),target)/release/bench $(ARGS)

generate: ## what is made from the code: CRDs in the member chart, reference pages, rendered charts
	@e2e/setup.sh demo
	UPDATE=1 cargo test --locked -p proto --test crds --test docs_faults
	UPDATE=1 cargo test --locked -p cli --test docs_cli
	UPDATE=1 cargo test --locked -p cli --test telemetry the_list_of_metrics_is_current
	UPDATE=1 cargo test --locked -p control-plane --lib rest::
	UPDATE=1 cargo test --locked -p e2e --test helm_charts
