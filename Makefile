# Two commands do everything: `make book` and `make test`. Options are given as NAME=value.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
PROFILE ?= quick
DEVICE ?= auto
SEED ?= 0
JOBS ?=
CLUSTER :=  # never from the environment, where a cluster may have put its own name

VENV := .venv/bin/python
quoted = '$(subst ','\'',$(1))'
OPTIONS = --profile $(call quoted,$(PROFILE)) --device $(call quoted,$(DEVICE)) --seed $(call quoted,$(SEED)) --jobs $(call quoted,$(JOBS)) \
	--cluster $(call quoted,$(CLUSTER))
BUILD = $(VENV) -m claimbook

.PHONY: help book test chapter compare claim audit bars devices pdf verdicts bench mutants lock slurm environment parameters clean distclean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep '##' $(MAKEFILE_LIST)
	@echo
	@echo '  PROFILE=quick|paper  DEVICE=auto|cpu|cuda  SEED=0  JOBS=number of cores  CLUSTER=slurm  PYTHON=python3 (3.11 or newer)'

book: environment ## create the environment, execute the chapters that are not current, build the site
	@$(BUILD) build $(OPTIONS)

test: environment ## everything that has to pass, on the quick book: units, notebooks, claims, the site in a browser
	@$(VENV) -m claimbook.command.check $(call quoted,$(JOBS))

chapter: environment ## execute one chapter and show its verdicts: make chapter PAGE=weight-balancing/convergence
	@$(BUILD) chapter $(call quoted,$(PAGE)) $(OPTIONS)

compare: environment ## your numbers beside the published ones, of one chapter (PAGE=...) or of all that are executed
	@$(BUILD) compare $(if $(PAGE),$(call quoted,$(PAGE))) $(OPTIONS)

claim: environment ## one claim alone, beside the published verdict and its probes: CLAIM=E-lem2.4 (PROBES=1 makes them again)
	@$(BUILD) claim $(call quoted,$(CLAIM)) $(if $(PROBES),--probes) $(OPTIONS)

audit: environment ## the probes of claims, where they are stale or CLAIM names one (it may be interrupted)
	@$(BUILD) audit $(if $(CLAIM),$(call quoted,$(CLAIM))) $(OPTIONS)

bars: environment ## how near pages are to essays: lines, code, cells, first figure (PAGE=... for one)
	@$(BUILD) bars $(if $(PAGE),$(call quoted,$(PAGE))) $(OPTIONS)

devices: environment ## the stored numbers of a GPU beside those of the processor, and what differs
	@$(BUILD) devices

pdf: book ## the whole book as one PDF, build/quick/book.pdf
	@$(BUILD) pdf $(OPTIONS)

ZOO := build/zoo/bin/python

.PHONY: zoo
zoo: environment ## every tool on the networks and loops that people use, stored in data/zoo (its own environment, 5 GB)
	@test -x $(ZOO) || $(PYTHON) -m venv build/zoo
	@$(ZOO) -m pip --disable-pip-version-check install -qq --no-deps --require-hashes -r requirements/zoo.txt
	@PYTHONPATH=lib $(ZOO) -m benchmarks.zoo

.PHONY: lighthouse
lighthouse: environment ## Lighthouse scores of three built pages, 95 or more (needs npm, which fetches it, and Chromium)
	@$(VENV) -m claimbook.command.lighthouse $(call quoted,build/$(PROFILE)/html)

verdicts: environment ## make the book, record its verdicts and seconds in data (DEVICE=cuda: beside those of the processor)
	@$(BUILD) verdicts --build $(OPTIONS)

bench: environment ## speed, as ratios against the plain way
	@for file in benchmarks/bench_*.py; do OMP_NUM_THREADS=1 $(VENV) -m "benchmarks.$$(basename "$$file" .py)"; done

mutants: environment ## change one formula of the library at a time and see a test turn red (ALL=--all tries all again)
	@$(VENV) tests/mutants.py $(ALL)

lock: environment ## rewrite the locks from requirements/*.in (UPGRADE=--upgrade renews the versions)
	@UPGRADE=$(call quoted,$(UPGRADE)) requirements/lock.sh

slurm: environment ## install what CLUSTER=slurm needs: Snakemake's plugin that sends chapters to a Slurm cluster
	@$(VENV) -m pip --disable-pip-version-check install -qq --no-deps --require-hashes -r requirements/slurm.txt

environment: parameters
	@$(PYTHON) requirements/environment.py

# Wrong words and a wrong Python are told in one line, before anything is installed or computed.
NAMES := PROFILE DEVICE SEED JOBS PAGE PYTHON UPGRADE ALL CLUSTER CLAIM PROBES
UNKNOWN = $(filter-out $(NAMES) VENV MAKE%,$(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name))))
parameters:
	@$(if $(UNKNOWN),echo '$(UNKNOWN) is not an option: choose among $(NAMES)' >&2; exit 2)
	@command -v $(call quoted,$(PYTHON)) >/dev/null || { echo $(call quoted,PYTHON=$(PYTHON) is not a command: give a Python 3.11 or newer) >&2; exit 2; }
	@$(PYTHON) -c 'import sys' >/dev/null 2>&1 || { echo 'PYTHON=$(PYTHON) is not a working Python: give a Python 3.11 or newer' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python %d.%d is too old (PYTHON=$(PYTHON)): 3.11 or newer is needed" % v[:2])'
	@$(PYTHON) lib/claimbook/source/parameters.py $(foreach name,PROFILE DEVICE SEED JOBS CLUSTER,$(call quoted,$(name)=$($(name)))) \
		$(if $(filter chapter $(if $(PAGE),compare),$(MAKECMDGOALS)),$(call quoted,PAGE=$(PAGE)))

clean: ## remove what was built
	@rm -rf build .snakemake .pytest_cache .ruff_cache

distclean: clean ## remove what was built and the environment
	@rm -rf .venv
