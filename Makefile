# Everything installs itself into .venv on first use. `make help` lists the commands.
# Another interpreter: make PYTHON=/path/to/python3.12 test

VENV := .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
STAMP := $(VENV)/.installed
# a process per core, each with one thread: two threads beside another busy process crawl
TEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# in the order of their rows
BOARD := othello othello-intervene maze space_time truthfulness

.PHONY: help demo board test test-all docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /make \1	/p' Makefile

demo: $(STAMP)  ## the main job on the shipped Othello model; the last line is the path of the report
	$(VENV)/bin/worldprobe run othello --quick --out runs/demo

board: $(STAMP)  ## the leaderboard of our reference results: site/index.html
	$(VENV)/bin/worldprobe leaderboard build $(addprefix benchmarks/results/,$(addsuffix .parquet,$(BOARD))) --out site

test: $(STAMP)  ## the tests, with ruff and mypy among them
	$(TEST) -m "not slow"

test-all: $(STAMP)  ## the tests, those that take minutes included
	$(TEST)

docs: $(STAMP)  ## the documentation as a web site, in build/site
	$(VENV)/bin/python docs/make_site.py build/site
	@echo build/site/index.html

clean:  ## remove .venv and the tools' caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is in the same resolver call as everything else, so that no second build of it arrives.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "worldprobe needs Python 3.11 or newer and found none;" \
		"install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) with the versions in constraints.txt; a few minutes, once"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@
