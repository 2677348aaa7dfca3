# `make demo` and `make test` do all their own set-up on a fresh machine, then run.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types site package unit clean

demo: $(VENV)/.installed-demo
	$(BIN)/python run.py -demo

test: lint types site package unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The pages as a site, in build/site; a warning ends it. The variable silences an announcement.
site: $(VENV)/.installed-dev
	PATH="$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What users install: built, installed where deepseg is not, and run.
package: $(VENV)/.installed-dev
	.ci/package $(CURDIR)/$(BIN)/python

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# A pinned torch first: it is the CPU build where the package index offers one.
$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-demo: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[plot,tensorboard,onnx,keras,demo,docs,test,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
