# `make demo` is all that a new machine needs: Python 3.11 or newer, and a network for the first time.
PYTHON ?= python3
WAYBILL = .venv/bin/python -m waybill
CHOICES = $(if $(SAMPLING),WAYBILL_SAMPLING=$(SAMPLING)) $(if $(METRICS),WAYBILL_METRICS=$(METRICS))
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: .venv/tool ## the environment alone: .venv, from hash-locked requirements

demo: .venv/tool ## everything, from nothing to orders with their traces; Ctrl-C ends it
	@$(CHOICES) $(WAYBILL) up --demo

up: .venv/tool ## start everything in the background; METRICS=on adds Prometheus, SAMPLING=tail keeps a choice of the traces
	@$(CHOICES) $(WAYBILL) up --background

down: .venv/tool ## end what `make up` started
	@$(WAYBILL) down

status: .venv/tool ## what runs, and the memory that it takes
	@$(WAYBILL) status

load: .venv/tool ## 200 orders, and whether each has its trace
	@$(WAYBILL) load $(if $(ORDERS),--orders $(ORDERS)) $(if $(RATE),--rate $(RATE)) $(if $(MIX),--mix $(MIX))

load-ui: .venv/tool ## Locust's web page instead
	@$(WAYBILL) load --web-ui

drill: .venv/tool ## a fault among 30 orders, to be found in Jaeger: SEED=7 repeats a drill
	@# Its status 3 is a wrong answer, which make would call an error.
	@$(WAYBILL) drill $(if $(SEED),--seed $(SEED)) || [ $$? -eq 3 ]

ledger: .venv/tool ## what became of every span, and where any were lost
	@$(WAYBILL) ledger

trace: .venv/tool ## one trace as a waterfall: make trace ID=...
	@$(WAYBILL) trace $(ID)

doctor: .venv/tool ## follow one order hop by hop: name the first broken one, and its fix
	@$(WAYBILL) doctor $(if $(SCENARIO),--scenario $(SCENARIO))

test: .venv/dev ## every test that needs no Docker
	WAYBILL_METRICS=on .venv/bin/python -m waybill binaries >/dev/null
	.venv/bin/pytest --numprocesses 5 tests --ignore tests/docker --ignore tests/faults

test-docker: .venv/dev ## the compose stack, brought up, used and taken down
	.venv/bin/pytest tests/docker

test-faults: .venv/dev ## end and kill parts under load, then check the books: SEED=7 repeats a run
	SEED=$(or $(SEED),1) .venv/bin/pytest --numprocesses 2 tests/faults

trees: .venv/dev ## write every tree that the documents and the tests have anew, from real runs: review them like code
	UPDATE_TREES=1 .venv/bin/pytest tests/trace tests/gallery tests/adopting tests/unit/test_blocks.py \
		tests/unit/test_walkthroughs.py tests/system/test_walkthroughs.py

lint: .venv/dev ## style, types, which folder may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

LOCK = .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet
lock: .venv/dev ## compile requirements/*.txt from pyproject.toml
	$(LOCK) --output-file requirements/services.txt
	$(LOCK) --extra tool --constraint requirements/services.txt --output-file requirements/tool.txt
	$(LOCK) --extra tool --extra dev --constraint requirements/tool.txt --output-file requirements/dev.txt

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Waybill needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "this Python cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }

# A stamp for each set of requirements: done only when pip has ended well.
.venv/tool .venv/dev: .venv/%: requirements/%.txt | .venv/bin/python
	@echo "installing requirements/$*.txt into .venv"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$*.txt
	@touch $@

.PHONY: help setup demo up down status load load-ui drill ledger trace doctor test test-docker test-faults trees lint lock
