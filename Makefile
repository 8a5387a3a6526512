# Commands of this repository; `make` alone lists them.
#
# One build serves `make test` and `make demo`: the dev profile (opt-level 1, see Cargo.toml), always for the
# whole workspace, so that nothing is compiled twice. `make bench` measures the release profile.

TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV   := $(or $(STARMERE_VENV),.venv)
PYTHON := $(VENV)/bin/python
DEV    := $(TARGET)/debug/starmere

# For `make demo`: how many orders.
ORDERS ?= 10000
# For `make bench`: which of landing, ssb, clients, stars, growth, memory and fields (all, where empty); the scale of
# ssb (1 is six million lines; 10 takes hours); and a folder for data and warehouses, of some 20 GB (40 at scale 10).
ONLY   ?=
SCALE  ?= 1
BENCH  ?= $(TARGET)/bench

# For `make soak`: so many commits of a stream, and where the project and its readings go.
COMMITS ?= 50000
SOAK    ?= $(TARGET)/soak

.PHONY: help demo test check fmt bench soak
.NOTPARALLEL:

help:
	@echo "make demo     a small shop, from events to answers, in ./demo   (ORDERS=$(ORDERS))"
	@echo "make test     everything that must hold"
	@echo "make check    formatting and lints"
	@echo "make fmt      format the code"
	@echo "make soak     months of \`starmere up\`, compressed   (COMMITS=$(COMMITS))"
	@echo "make bench    figures, beside DuckDB, ClickHouse and polars, into bench/RESULTS.md   (ONLY=landing, SCALE=$(SCALE))"

# The binary is the one that the tests use: somewhat slower than what is shipped, but built once.
demo:
	@scripts/install.sh demo
	cargo build --workspace
	@$(PYTHON) scripts/demo.py $(DEV) demo --orders $(ORDERS)

# `cargo test` builds the binary too, for the tests that run it as a process.
test:
	@scripts/install.sh test
	cargo test --workspace
	@$(PYTHON) scripts/test_outside.py $(DEV)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all

bench:
	@scripts/install.sh test
	cargo build --workspace --release
	@$(PYTHON) bench/run.py $(TARGET)/release/starmere $(BENCH) --scale $(SCALE) --only "$(ONLY)"

# Longer than `make test` may take: posts as fast as they are answered, restarts, and what must stay flat meanwhile.
soak:
	@scripts/install.sh test
	cargo build --workspace --release
	@rm -rf $(SOAK)
	@mkdir -p $(SOAK)
	@$(PYTHON) scripts/soak.py $(TARGET)/release/starmere $(SOAK)/project --commits $(COMMITS) \
		--out bench/results/soak.json --draw docs/pictures/soak.svg
