# Everything people and CI do, from a fresh clone, with rustup's cargo and a Python 3.11 or newer.
# All of it stays in this folder: .venv (Python), target (Rust), build (wheels, smoke environments).
#
#     make demo                         see what it does
#     make lint test                    what a change must pass
#     make test PYTHON=python3.13       on another interpreter (run `make clean` first)
#     make test TESTS="-k imap"         some of the Python tests; RUST=0 leaves out the Rust ones

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TESTS ?=
RUST ?= 1
# What each long run gets on its command line, e.g. `make bench ARGS=--quick`.
ARGS ?=

BIN := .venv/bin
STAMPS := .venv/stamps
CRATES := $(shell find crates -name '*.rs' -o -name '*.toml' -o -type d)
SOURCES := $(CRATES) Cargo.toml Cargo.lock pyproject.toml
# One interpreter for every build step, or cargo would compile PyO3 again at each change of step.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# A second copy of the package, whose processes die where a test says: see crates/shm/src/fail.rs.
FAIL_POINTS := build/fail-points
# The binding is an extension module: it links into an interpreter only, and pytest tests it.
CORE_CRATES := --workspace --exclude bireme-python
# What clippy.toml bans from the libraries, tests may use.
IN_TESTS := -A clippy::disallowed_types -A clippy::disallowed_methods
NEXTEST := $(shell command -v cargo-nextest)

.PHONY: help build demo test smoke lint bench soak conformance docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.* ## /\1\t/' | expand -t 14

build: $(STAMPS)/core ## compile the extension module and install bireme, editable, in .venv

demo: build $(STAMPS)/demo ## count the code of the Python installed here: loop, Pool and bireme
	$(BIN)/python examples/code_census.py $(ARGS)

test: build $(STAMPS)/test $(STAMPS)/fail-points ## Rust tests, then Python tests on the default interpreter
ifeq ($(RUST),1)
ifneq ($(NEXTEST),)
	cargo nextest run --locked $(CORE_CRATES)
else
	cargo test --locked $(CORE_CRATES) --lib --bins --tests
endif
	cargo test --locked $(CORE_CRATES) --doc
	RUSTFLAGS="--cfg loom" cargo test --locked --release --config profile.release.lto=false \
		-p bireme-shm --target-dir target/loom --test loom
endif
	$(BIN)/python -m pytest $(TESTS) || \
		{ grep -sv '/_pytest/\|/pluggy/\|<frozen runpy>' build/stuck-test; exit 1; }

smoke: build $(STAMPS)/test ## a short suite, from the wheel, on every other interpreter found here
	$(BIN)/python -m tests.smoke $(ARGS)

lint: build $(STAMPS)/lint $(STAMPS)/test ## formatting, lints, types, stubs and Rust documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-features -- -D warnings
	cargo clippy --locked --workspace --all-targets -- -D warnings $(IN_TESTS)
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest bireme._core --mypy-config-file pyproject.toml

bench: build $(STAMPS)/bench ## measure against the other pools; writes BENCHMARKS.md
	$(BIN)/python -m benches.compare $(ARGS)

soak: build $(STAMPS)/test ## kill workers at random under load, for minutes
	$(BIN)/python -m tests.stress.soak $(ARGS)

conformance: build $(STAMPS)/test ## CPython's own tests for Pool, pointed at bireme.Pool
	$(BIN)/python -m tests.conformance.run $(ARGS)

docs: build $(STAMPS)/docs ## the documentation, as a site under build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

clean: ## remove whatever was built or installed here
	rm -rf .venv build target python/bireme/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	$(PYTHON) -c 'import sys; sys.exit("bireme needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet pip==26.3
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/build $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/demo $(STAMPS)/bench $(STAMPS)/docs: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --group $(@F)
	touch $@

$(STAMPS)/fail-points: $(SOURCES) | $(STAMPS)/build
	PYO3_BUILD_EXTENSION_MODULE=1 cargo build --locked -p bireme-python \
		--features abi3,fail-points --target-dir $(FAIL_POINTS)/target
	rm -rf $(FAIL_POINTS)/bireme
	mkdir -p $(FAIL_POINTS)/bireme
	ln -s $(CURDIR)/python/bireme/*.py $(FAIL_POINTS)/bireme
	cp $(FAIL_POINTS)/target/debug/lib_core.so $(FAIL_POINTS)/bireme/_core.abi3.so
	touch $@

# Only one build of the module may lie in the package: an interpreter takes the first that fits.
$(STAMPS)/core: $(SOURCES) | $(STAMPS)/build
	rm -f python/bireme/_core*.so
	$(BIN)/maturin develop --release --locked
	touch $@
