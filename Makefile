# One word each. Everything runs in an environment of its own, .venv; nothing else is touched.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint audit image image-archive image-test clean

PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON)),)
PYTHON := python3
endif
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO ?= demo
SOURCES := setup.cfg pyproject.toml constraints.txt

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/pyvenv.cfg $(SOURCES)
	$(PIP) torch --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps nnunet
	@touch $@

demo: .venv/installed  ## write a demonstration dataset with known lesions, find them, compare
	$(BIN)/bids_stroke-demo $(DEMO)/bids --overwrite
	$(BIN)/bids_stroke $(DEMO)/bids $(DEMO)/out participant -w $(DEMO)/work
	$(BIN)/bids_stroke $(DEMO)/bids $(DEMO)/out group -w $(DEMO)/work

test: .venv/installed-test  ## the tests that take minutes
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-all: .venv/installed-test  ## every test, as CI runs them
	$(BIN)/python -m pytest

lint: .venv/installed-test  ## style, types and layers
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy bids_stroke
	$(BIN)/lint-imports --config setup.cfg

audit: .venv/installed-test  ## known faults of the pinned versions (asks the index's database), and of our sources
	$(PIP) pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt
	$(BIN)/bandit --quiet --recursive bids_stroke

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' bids_stroke/__init__.py)
IMAGE ?= bids_stroke:$(VERSION)
ENGINE ?= docker

image:  ## the container image, by ENGINE=docker (or podman)
	$(ENGINE) build --build-arg VERSION=$(VERSION) --tag $(IMAGE) .

image-archive: image  ## the image as bids_stroke.tar, which Apptainer converts
	$(ENGINE) save --output bids_stroke.tar $(IMAGE)

image-test: .venv/installed-test  ## build the image without Docker (root on Debian) and run it in every way
	BIDS_STROKE_BUILD_IMAGE=1 $(BIN)/python -m pytest -m slow tests/test_image.py

BENCHMARKS := startup scheduling training predict group many_subjects one_subject registration

bench: .venv/installed-test  ## our speed beside that of other tools, an hour; see benchmarks/README.md
	@for name in $(BENCHMARKS); do echo; echo "# $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

bench-quick: .venv/installed-test  ## the same on small data
	@for name in $(BENCHMARKS); do echo; echo "# $$name"; $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

clean:  ## remove the environment and the demonstration
	rm -rf .venv $(DEMO)
