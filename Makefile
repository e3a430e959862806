# The commands of this repository; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Options for the demo (`make demo ARGS=--fresh`) or the comparison (`make bench ARGS="--seconds 10"`).
ARGS ?=

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: demo
demo: prepare ## A primary, two replicas and the proxy on this machine; Ctrl-C ends it (ARGS="--fresh --replicas 3")
	cargo build --release
	exec target/release/readwright demo $(ARGS)

.PHONY: test
test: prepare lint ## Everything that must hold: formatting, clippy, documentation, all tests (against real servers)
	cargo test --no-fail-fast

.PHONY: build
build: prepare ## The optimised program: target/release/readwright
	cargo build --release

.PHONY: lint
lint: ## Formatting, clippy, broken links in the documentation; dependencies too where cargo-deny is installed
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --quiet
	if cargo deny --version >/dev/null 2>&1; then cargo deny --config .deny.toml check; fi

.PHONY: load
load: prepare ## sysbench with 64 threads through the proxy: errors, and the share of reads on replicas
	command -v sysbench >/dev/null || { echo "please install sysbench: apt-get install sysbench" >&2; exit 1; }
	cargo bench --bench load -- $(ARGS)

.PHONY: bench
bench: build ## Throughput, latency and cost per query beside HAProxy and MySQL Router
	benches/compare $(ARGS)

.PHONY: prepare
prepare: # What the build and the servers need, installed or fetched when missing
	@scripts/prepare
