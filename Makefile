# The commands of this project. `make` alone lists them.

CARGO ?= cargo
SEEDS ?= 1000
CI_SEEDS ?= 2300
NODES ?=

.DEFAULT_GOAL := help
.PHONY: help groups run test ci fmt lint doc sim sim-ci campaign explore mutants chaos chaos-ci bench bench-peers growth guard no-std wasm embed

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 /' | awk '{cmd=$$1" "$$2; $$1="";$$2=""; printf "  %-14s%s\n", cmd, $$0}'

run: ## Three real processes on loopback: elect, write, kill -9, recover, read everything back
	$(CARGO) run --release -p raft-driver-tokio --example kv -- demo

test: ## All tests, documentation examples included
	$(CARGO) test --workspace --all-features

ci: ## What has to pass: format, lints, documentation, no std in the core, tests, the cost of the hot path, a fixed set of simulated seeds, a minute of chaos
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps
	$(MAKE) no-std
	$(MAKE) test
	$(MAKE) embed
	$(MAKE) guard
	$(MAKE) sim-ci
	$(MAKE) chaos-ci

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Clippy on all targets, warnings are errors
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps

OUT = $(or $(CARGO_TARGET_DIR),target)
SIM := $(CARGO) run --release -p raft-sim --

sim: ## 1,000 simulated clusters with faults and checkers; SEED=7 prints one run, SEEDS=n and NODES=n choose
	$(SIM) run $(if $(SEED),--seed $(SEED) --trace,--seeds $(SEEDS)) $(if $(NODES),--nodes $(NODES))

# Enough seeds for ten simulated hours, and some; every mark that a campaign should reach is reached in so many.
sim-ci: ## The simulated seeds of CI: at least ten simulated hours
	$(SIM) run --seeds $(CI_SEEDS)

CAMPAIGN_SEEDS ?= 100000
CAMPAIGN = $(OUT)/campaign.json

campaign: ## 100,000 seeds; goes on where it was interrupted (target/campaign.json), results carry the commit
	mkdir -p $(OUT)
	$(SIM) run --seeds $(CAMPAIGN_SEEDS) --keep-going --resume $(CAMPAIGN) --save $(OUT)/failures

explore: ## Check small models of a cluster exhaustively; MODEL=name for one
	$(SIM) explore $(MODEL)

mutants: ## Plant every bug under sim/mutants and show that the simulator catches it
	$(SIM) mutants

DRIVER ?= tokio
DURATION_S ?= 600
NET ?= proxy
EXAMPLE_tokio := kv
EXAMPLE_actix := kv-actix
CHAOS_SERVER = $(EXAMPLE_$(DRIVER))
CHAOS_BUILD = --release -p raft-driver-tokio -p raft-driver-$(DRIVER)
# What was built as $(1), as cargo says: where it is depends on the environment and on configuration files.
CHAOS_PROGRAM = "$$(printf '%s\n' "$$built" | sed -n 's|.*"executable":"\([^"]*/$(1)\)".*|\1|p')"

# The seed determines the faults and their times, not how processes and requests interleave.
chaos: ## Five real servers killed, paused, cut off, replaced under load, every history checked; DURATION_S, SEED, DRIVER=tokio|actix, NET=proxy|namespaces, TLS=1, RECORD=1
	@set -e; built=$$($(CARGO) build $(CHAOS_BUILD) --example chaos --example $(CHAOS_SERVER) \
	  --message-format=json-render-diagnostics); \
	$(call CHAOS_PROGRAM,chaos) run --server $(call CHAOS_PROGRAM,$(CHAOS_SERVER)) \
	  --duration-s $(DURATION_S) --net $(NET) $(if $(SEED),--seed $(SEED)) $(if $(TLS),--tls) $(if $(RECORD),--record)

# The programs are those that the tests have built already.
chaos-ci: ## A minute of it
	$(MAKE) chaos DURATION_S=60 SEED=$(or $(SEED),1) CHAOS_BUILD="--workspace --all-features"

bench: ## Measure the core's hot path (fails beyond raft-core/benches/figures.txt), the codec, sessions, the durable log store, three durable nodes over TCP, both drivers, the simulator
	$(CARGO) bench -p raft-core --bench hot_path
	$(CARGO) bench -p raft-core --bench codec
	$(CARGO) bench -p raft-core --bench sessions
	$(CARGO) bench -p raft-driver-tokio --bench durable
	$(CARGO) bench -p raft-driver-tokio --bench networked
	$(CARGO) bench -p raft-driver-actix --bench throughput
	$(CARGO) bench -p raft-sim --bench profiles

guard: ## Allocations and, with valgrind, instructions per entry of the core's hot path, held against raft-core/benches/figures.txt
	$(CARGO) bench -p raft-core --bench hot_path -- guard

PEERS := raft-core/benches/peers
PEERS_OUT = $(OUT)/peers
PEERS_ARGS ?=

# The first build takes long: every other library, and crates of 2019 for one of them.
bench-peers: ## Other libraries and etcd on the same work, in turn, with ratios: 25 minutes; PEERS_ARGS="drivers --rounds 3" chooses, PEERS_ARGS=--help lists
	@set -e; built=$$($(CARGO) build --release -p raft-driver-tokio --example kv --message-format=json-render-diagnostics); \
	$(CARGO) build --release --manifest-path $(PEERS)/actix-raft/Cargo.toml --target-dir $(PEERS_OUT); \
	$(CARGO) build --release --manifest-path $(PEERS)/Cargo.toml --target-dir $(PEERS_OUT); \
	$(PEERS_OUT)/release/raft-core-peers --kv $(call CHAOS_PROGRAM,kv) \
	  --actix-raft $(PEERS_OUT)/release/raft-core-peers-actix-raft --json $(OUT)/peers.json $(PEERS_ARGS)

GROWTH_DIR := raft-driver-tokio/benches/growth

growth: ## Measure and draw how it grows (raft-driver-tokio/docs/growth); GROWTH="--quick", GROWTH="load catch-up", GROWTH=--help say what
	$(CARGO) run --release --manifest-path $(GROWTH_DIR)/Cargo.toml --target-dir $(OUT)/growth -- $(GROWTH)

groups: ## Measure what 1,000 idle groups cost in each of three processes; GROUPS_MODES="shared separate" and GROUP_COUNT=n choose
	$(CARGO) bench -p raft-driver-tokio --bench groups -- $(or $(GROUPS_MODES),shared) $(GROUP_COUNT)

embed: ## Three servers on plain threads and channels, with nothing but the core and std
	$(CARGO) run -p raft-core --example embed

NO_STD := raft-core/tests/no_std

no-std: ## Show that nothing brings std into the core: compiles a library with a panic handler of its own
	cp Cargo.lock $(NO_STD)/Cargo.lock
	$(CARGO) build --manifest-path $(NO_STD)/Cargo.toml --target-dir $(OUT)/no-std

WASM := wasm32-unknown-unknown
DEBIAN_RUSTC := /usr/bin/rustc
# The oldest compiler that the workspace allows, and whether Debian's is as new.
RUST_MIN = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
DEBIAN_RUST = $(shell $(DEBIAN_RUSTC) --version 2>/dev/null | cut -d' ' -f2)
DEBIAN_FITS = $(shell printf '%s\n' '$(RUST_MIN)' '$(DEBIAN_RUST)' | sort -VC && ls /usr/src/rustc-*/library/Cargo.toml 2>/dev/null && command -v wasm-ld)

wasm: ## Build the core for WebAssembly, with the toolchain's own target or with Debian's rustc-web
	@if [ -d "$$(rustc --print target-libdir --target $(WASM) 2>/dev/null)" ]; then \
	  set -x; $(CARGO) build -p raft-core --target $(WASM); \
	elif [ -n "$(DEBIAN_FITS)" ]; then \
	  set -x; RUSTC=$(DEBIAN_RUSTC) RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld \
	    $(CARGO) build -p raft-core --target $(WASM) -Zbuild-std=std,panic_abort; \
	else \
	  echo "Nothing here compiles for $(WASM) with Rust $(RUST_MIN) or later. Install one of:"; \
	  echo "  rustup target add $(WASM)"; \
	  echo "  apt-get install rustc-web rust-web-src lld    (found: Rust $(or $(DEBIAN_RUST),none))"; \
	  exit 1; \
	fi
