# Every target does its own set-up: the environment .venv, all dependencies, the release build of the
# Rust extension. A second call does not set up again.
.DEFAULT_GOAL := help
.PHONY: help setup run test test-python test-rust lint format bench bench-torch bench-gpu fuzz kill soak clean

PYTHON ?= python3
BIN := .venv/bin
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(wildcard rust/*.rs rust/*/*.rs)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.pip: ## (uv installs about ten times faster than pip)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python >= 3.11, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 'maturin>=1.9.4,<2'
	@touch $@

.venv/.ready: .venv/.pip $(SOURCES)
	VIRTUAL_ENV=$(CURDIR)/.venv PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin develop --release --uv --extras encoders,dev
	@touch $@

setup: .venv/.ready ## Make the environment .venv and build the extension

run: setup ## Run the demo shop from pictures to recommendations
	$(BIN)/python -m mql4grec run

test: test-rust test-python ## Run all tests, Rust and Python

test-python: setup
	$(BIN)/python -m pytest

test-rust:
	cargo test --release --locked

lint: setup ## Check formatting, ruff, mypy, the extension's stub, clippy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest mql4grec._core
	cargo fmt --check
	cargo clippy --release --locked --all-targets --features python -- -D warnings

format: setup ## Format all code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt

bench: setup ## Run all benches on the CPU
	cargo bench --locked

bench-torch: setup ## Run the benches of the rooms that use torch, on the device there is
	$(BIN)/python benches/torch_rooms.py
	OMP_NUM_THREADS=1 $(BIN)/python benches/translator.py --speed --layers paper --epochs 4
	OMP_NUM_THREADS=1 $(BIN)/python benches/recommender.py
	OMP_NUM_THREADS=1 $(BIN)/python benches/decoding.py
	OMP_NUM_THREADS=1 $(BIN)/python benches/quality.py --items 100000 --queries 2000

# No set-up of its own: a GPU machine may have its own PyTorch, and get the package as a wheel. Real
# histories are learnt where they are: make bench-gpu INSTRUMENTS=path/to/Instruments
INSTRUMENTS ?= ../shared/data/Instruments
bench-gpu: ## Run every GPU bench and check; writes benches/results/
	$(PYTHON) benches/steps.py --out benches/results
	$(PYTHON) benches/torch_rooms.py --out benches/results
	$(PYTHON) benches/translator.py --throughput 100000 --layers paper --epochs 500 --out benches/results
	$(PYTHON) benches/translator.py --throughput 10000000 --layers paper --epochs 20 --out benches/results
	if test -d $(INSTRUMENTS); \
	then $(PYTHON) benches/instruments.py --data $(INSTRUMENTS) --out benches/results; \
	else echo "no $(INSTRUMENTS): benches/instruments.py is left out"; fi
	$(PYTHON) benches/decoding.py --users 17112 --rival-users 1024 --batches 256 1024 --repeat 2 --out benches/results
	$(PYTHON) -m pytest tests/test_gpu.py -p no:cacheprovider -q

# CALLS calls of the Rust border, CASES cases of each property in Rust, MINUTES of damaged files.
CALLS ?= 1000000
CASES ?= 20000
MINUTES ?= 30
fuzz: setup ## Call the Rust border at random, with hostile arguments and damaged files
	PROPTEST_CASES=$(CASES) cargo test --release --locked
	cd tests && ../$(BIN)/python -m campaign.border --calls $(CALLS)
	$(BIN)/python tests/campaign/files.py --minutes $(MINUTES)

KILLS ?= 1000
kill: setup ## Kill runs at any moment, go on with them, compare every byte
	$(BIN)/python tests/campaign/kill.py --kills $(KILLS)

soak: setup ## Take a large synthetic shop through every stage, with time and memory
	$(BIN)/python tests/campaign/soak.py

clean: ## Remove the environment and all build results (not runs/)
	rm -rf .venv target .mypy_cache .pytest_cache .ruff_cache
