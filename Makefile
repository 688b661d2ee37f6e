# The commands of this project. `make` alone lists them.

CARGO ?= cargo
SEEDS ?= 1000
CI_SEEDS ?= 300
NODES ?=

.DEFAULT_GOAL := help
.PHONY: help run test ci fmt lint doc sim mutants bench

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 /' | awk '{cmd=$$1" "$$2; $$1="";$$2=""; printf "  %-14s%s\n", cmd, $$0}'

run: ## Three real processes on loopback: elect, write, kill -9, recover, read everything back
	$(CARGO) run --release -p raft-driver-tokio --example kv -- demo

test: ## All tests, documentation examples included
	$(CARGO) test --workspace --all-features

ci: ## What has to pass: format, lints, documentation, tests, a fixed set of simulated seeds
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps
	$(MAKE) test
	$(MAKE) sim SEEDS=$(CI_SEEDS)

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Clippy on all targets, warnings are errors
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps

sim: ## 1,000 simulated clusters with faults and checkers; SEED=7 prints one run, SEEDS=n and NODES=n choose
	$(CARGO) run --release -p raft-sim -- run $(if $(SEED),--seed $(SEED) --trace,--seeds $(SEEDS)) $(if $(NODES),--nodes $(NODES))

mutants: ## Plant every bug under sim/mutants and show that the simulator catches it
	$(CARGO) run --release -p raft-sim -- mutants

bench: ## Measure: the core's hot path (time and allocations per entry), the durable log store against a plain file
	$(CARGO) bench -p raft-core --bench hot_path
	$(CARGO) bench -p raft-driver-tokio --bench durable
