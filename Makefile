# `make demo` is all that a new machine needs: Python 3.11 or newer, and a network for the first time.
PYTHON ?= python3
VENV = .venv
WAYBILL = $(VENV)/bin/python -m waybill
CHOICES = $(if $(SAMPLING),WAYBILL_SAMPLING=$(SAMPLING)) $(if $(METRICS),WAYBILL_METRICS=$(METRICS))
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/tool ## the environment alone: .venv, from hash-locked requirements

demo: $(VENV)/tool ## everything, from nothing to orders with their traces; Ctrl-C ends it
	@$(CHOICES) $(WAYBILL) up --demo

up: $(VENV)/tool ## start everything in the background; METRICS=on adds Prometheus, SAMPLING=tail keeps a choice of the traces
	@$(CHOICES) $(WAYBILL) up --background

down: $(VENV)/tool ## end what `make up` started
	@$(WAYBILL) down

status: $(VENV)/tool ## what runs, and the memory that it takes
	@$(WAYBILL) status

load: $(VENV)/tool ## 200 orders, and whether each has its trace
	@$(WAYBILL) load $(if $(ORDERS),--orders $(ORDERS)) $(if $(RATE),--rate $(RATE)) $(if $(MIX),--mix $(MIX))

load-ui: $(VENV)/tool ## Locust's web page instead
	@$(WAYBILL) load --web-ui

drill: $(VENV)/tool ## a fault among 30 orders, to be found in Jaeger: SEED=7 repeats a drill
	@# Its status 3 is a wrong answer, which make would call an error.
	@$(WAYBILL) drill $(if $(SEED),--seed $(SEED)) || [ $$? -eq 3 ]

ledger: $(VENV)/tool ## what became of every span, and where any were lost
	@$(WAYBILL) ledger

trace: $(VENV)/tool ## one trace as a waterfall: make trace ID=...
	@$(WAYBILL) trace $(ID)

dead-letters: $(VENV)/tool ## messages that fulfilment put aside; REPLAY=<id> sends one back, DROP=<id> deletes it, or all
	@$(WAYBILL) dead-letters $(if $(REPLAY),replay '$(REPLAY)',$(if $(DROP),drop '$(DROP)',list))

doctor: $(VENV)/tool ## follow one order hop by hop: name the first broken one, and its fix
	@$(WAYBILL) doctor $(if $(SCENARIO),--scenario $(SCENARIO))

check: lint ## what to run after each change: lint, types, and the tests that need nothing but Python; under a minute
	$(VENV)/bin/pytest --quiet --numprocesses auto tests/unit tests/telemetry

test: $(VENV)/dev ## every test that needs no Docker
	WAYBILL_METRICS=on $(VENV)/bin/python -m waybill binaries >/dev/null
	$(VENV)/bin/pytest --numprocesses 5 tests --ignore tests/docker --ignore tests/faults

test-docker: $(VENV)/dev ## the compose stack, brought up, used and taken down
	$(VENV)/bin/pytest tests/docker

test-faults: $(VENV)/dev ## end and kill parts under load, then check the books: SEED=7 repeats a run
	SEED=$(or $(SEED),1) $(VENV)/bin/pytest --numprocesses 2 tests/faults

trees: $(VENV)/dev ## write every tree that the documents and the tests have anew, from real runs: review them like code
	UPDATE_TREES=1 $(VENV)/bin/pytest tests/trace tests/gallery tests/adopting tests/unit/test_blocks.py \
		tests/unit/test_walkthroughs.py tests/system/test_walkthroughs.py

doctor-table: $(VENV)/dev ## write the tables of docs/doctor.md from the doctor's code
	UPDATE_TREES=1 $(VENV)/bin/pytest --quiet tests/unit/test_doctor_faults.py -k document

lint: $(VENV)/dev ## style, types, which folder may import which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lint-workflows: $(VENV)/dev ## the workflows on GitHub: by actionlint, which needs Go, and against their schemas
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	$(CHECK_SCHEMA) --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(CHECK_SCHEMA) --builtin-schema vendor.dependabot .github/dependabot.yml

CHECK_SCHEMA = $(VENV)/bin/uv tool run --quiet --from check-jsonschema==0.39.0 check-jsonschema
# Not part of it: its schema has to be fetched from GitHub.
lint-devcontainer: $(VENV)/dev ## the devcontainer, against the schema of its specification
	$(CHECK_SCHEMA) .devcontainer/devcontainer.json --schemafile \
		https://raw.githubusercontent.com/devcontainers/spec/main/schemas/devContainer.base.schema.json

LOCK = $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet
lock: $(VENV)/dev ## compile requirements/*.txt from pyproject.toml
	$(LOCK) --output-file requirements/services.txt
	$(LOCK) --extra tool --constraint requirements/services.txt --output-file requirements/tool.txt
	$(LOCK) --extra tool --extra dev --constraint requirements/tool.txt --output-file requirements/dev.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Waybill needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "this Python cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }

# A stamp for each set of requirements: done only when pip has ended well.
$(VENV)/tool $(VENV)/dev: $(VENV)/%: requirements/%.txt | $(VENV)/bin/python
	@echo "installing requirements/$*.txt into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$*.txt
	@touch $@

.PHONY: help setup demo up down status load load-ui drill ledger trace dead-letters doctor doctor-table check test \
	test-docker test-faults trees lint lint-workflows lint-devcontainer lock
