# Every target sets up .venv by itself (Python 3.10 to 3.13 is all it needs) and may be repeated.
# Another interpreter: make demo PYTHON=python3.12        More arguments: make demo ARGS="--set seed=1"
# Newest versions of all packages instead of the tested ones, in an environment of their own: make test LATEST=1
PYTHON ?= python3
ARGS ?=
export LATEST FAST

.PHONY: help setup demo test lab docs print bench export lock clean

help:
	@echo "make demo    a complete STAL run on the embedded scenes"
	@echo "make test    all tests: every notebook, then pytest with a browser    FAST=1: quick ones    LATEST=1: newest packages"
	@echo "make lab     JupyterLab at the index"
	@echo "make docs    the documentation site, in _docs/index.html"
	@echo "make print   the first reading path as a PDF, in _docs/first_path.pdf"
	@echo "make bench   how long things take, in bench/results.json"
	@echo "make export  the library and README.md from the notebooks"
	@echo "make lock    the newest versions as the set to test, in constraints.txt"
	@echo "make clean   remove generated files and noise in notebooks"

setup demo test lab docs print bench export lock clean:
	@$(PYTHON) -m tools.bootstrap $@ $(ARGS)
