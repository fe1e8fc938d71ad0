# On a new machine `make demo` is enough. It needs Python 3.11 or newer and, the first time, a network.
PYTHON ?= python3
VENV = .venv
WAYBILL = WAYBILL_TYPED=make $(VENV)/bin/python -m waybill
CHOICES = $(if $(SAMPLING),WAYBILL_SAMPLING="$$SAMPLING") $(if $(METRICS),WAYBILL_METRICS="$$METRICS") \
	$(if $(ALERTS),WAYBILL_ALERTS="$$ALERTS") \
	$(if $(STORAGE),WAYBILL_STORAGE="$$STORAGE") $(if $(RETENTION),WAYBILL_RETENTION="$$RETENTION")
# make puts variables from the command line into the environment. Commands read them there, in quotes, so that
# the shell does not interpret them.
# Ctrl-C ends a command with its own message and the status 130, which make must not report as an error too; $(2) is
# another such status. The trap keeps the shell until the command has ended.
run = @trap : INT; $(1); status=$$?; case $$status in 0|130$(if $(2),|$(2))) ;; *) exit $$status ;; esac
.DEFAULT_GOAL := help

help: ## list the targets with their variables
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p; s/^##   ([A-Z]+=[^ ]*) +/\t\1\t/p' $(MAKEFILE_LIST) | expand -t 14,46

setup: $(VENV)/tool ## create the environment .venv, from hash-locked requirements
##   PYTHON=python3.13    the Python to create it with, for this and all other targets

demo: $(VENV)/tool ## start everything, place three orders and show a trace; Ctrl-C stops it all
##   SAMPLING=tail        keep only some traces; SAMPLING=two-tier: two Collectors behind the first one choose
##   METRICS=on           start Prometheus too
##   ALERTS=demo          start Prometheus with short windows: alerts fire within two minutes
##   STORAGE=badger       keep traces on disk; by default they are gone after Ctrl-C
##   RETENTION=7          how many days to keep traces
	$(call run,$(CHOICES) $(WAYBILL) up --demo)

up: $(VENV)/tool ## start everything in the background
##   SAMPLING=tail        keep only some traces; SAMPLING=two-tier: two Collectors behind the first one choose
##   METRICS=on           start Prometheus too
##   ALERTS=demo          start Prometheus with short windows: alerts fire within two minutes
##   STORAGE=memory       traces are gone after `make down`; by default they survive it (badger)
##   RETENTION=7          how many days to keep traces
	$(call run,$(CHOICES) $(WAYBILL) up --background)
# A system that keeps running keeps its traces.
up: export STORAGE ?= $(or $(WAYBILL_STORAGE),badger)

down: $(VENV)/tool ## stop what `make up` started
	$(call run,$(WAYBILL) down)

status: $(VENV)/tool ## show what is running, and how much memory it uses
	$(call run,$(WAYBILL) status)

load: $(VENV)/tool ## place 200 orders, and check that each has its trace
##   ORDERS=200           how many orders
##   USERS=8              how many customers place orders at the same time
##   RATE=20              orders per second; by default as fast as they are answered
##   MIX=completed=9,slow-query=1    kinds of orders and their weights
	$(call run,$(WAYBILL) load $${ORDERS:+--orders="$$ORDERS"} $${USERS:+--users="$$USERS"} $${RATE:+--rate="$$RATE"} \
		$${MIX:+--mix="$$MIX"})

load-ui: $(VENV)/tool ## the same with Locust's web page
	$(call run,$(WAYBILL) load --web-ui)

drill: $(VENV)/tool ## find the fault among 30 orders, in Jaeger or with `make trace` in a second terminal
##   SEED=7               repeat a drill
##   LIST=yes             list some seeds for each fault instead
# Its status 3 is a wrong answer, which is no error of make.
	$(call run,$(WAYBILL) drill $${SEED:+--seed="$$SEED"} $${LIST:+--list},3)

incident: $(VENV)/tool ## record a fault among 30 orders as files, with a sealed answer key
##   SEED=7               which fault, as in a drill
##   OUT=incident         the folder to write
	$(call run,$(WAYBILL) incident $${SEED:+--seed="$$SEED"} $${OUT:+--out="$$OUT"})

incidents: $(VENV)/tool ## record twelve incidents, and pack them
##   OUT=incidents        the folder to write
	$(call run,$(WAYBILL) incident --all $${OUT:+--out="$$OUT"})

grade: $(VENV)/tool ## score an answer to an incident
##   INCIDENT=incident    its folder
##   ANSWER=answer.json   the answer: docs/incidents.md
	$(call run,$(WAYBILL) grade $${INCIDENT:+--incident="$$INCIDENT"} -- $${ANSWER:+"$$ANSWER"},3)

ledger: $(VENV)/tool ## show what became of every span, and where any were lost
	$(call run,$(WAYBILL) ledger)

trace: $(VENV)/tool ## show a trace as a waterfall
##   ID=0af7651916cd...   the trace's id, from the answer to an order
##   WAIT=5               how many seconds to wait for spans that have not arrived yet
##   LOGS=1               show the log lines of each span too
	$(call run,$(WAYBILL) trace $(if $(LOGS),--logs) $${WAIT:+--wait="$$WAIT"} -- $${ID:+"$$ID"})

logs: $(VENV)/tool ## follow the log lines of all services
##   SERVICE=payment      only those of one service
##   SEVERITY=WARNING     only those of at least this severity
##   TRACE=0af7651916cd...   only those of one trace
	$(call run,$(WAYBILL) logs $${SERVICE:+--service="$$SERVICE"} $${SEVERITY:+--severity="$$SEVERITY"} \
		$${TRACE:+--trace="$$TRACE"})

dead-letters: $(VENV)/tool ## list the messages that fulfilment put aside
##   REPLAY=<id>          send one back, or `all`
##   DROP=<id>            delete one, or `all`
	$(call run,$(WAYBILL) dead-letters $(if $(REPLAY),replay -- "$$REPLAY",$(if $(DROP),drop -- "$$DROP",list)))

retention: $(VENV)/tool ## delete old orders, messages, reservations and shipments
##   DAYS=30              how old, in days
	$(call run,$(WAYBILL) retention $${DAYS:+--days="$$DAYS"})

doctor: $(VENV)/tool ## follow one order hop by hop, and name the first broken hop and its fix
##   SCENARIO=slow-query  ask for a fault in that order
	$(call run,$(WAYBILL) doctor $${SCENARIO:+--scenario="$$SCENARIO"})

score: $(VENV)/tool ## show the Instrumentation Score of each service, from Jaeger and from its log records
##   FILE=otlp.jsonl      read a file of OTLP in JSON instead
	$(call run,$(WAYBILL) score $${FILE:+"$$FILE"})

bench: $(VENV)/dev ## measure what tracing costs: ours, zero-code and others against untraced, in about ten minutes
##   VARIANTS=untraced,ours    only these; the others are compared with the first
##   BASE=<commit>        compare the working tree with a commit instead
##   ROUNDS=3             how many turns of each variant
##   DURATION=8           how many seconds of load in each turn
##   SEED=7               the random order of the turns
	$(call run,$(WAYBILL) bench $${VARIANTS:+--variants="$$VARIANTS"} $${BASE:+--base="$$BASE"} \
		$${ROUNDS:+--rounds="$$ROUNDS"} $${DURATION:+--duration="$$DURATION"} $${SEED:+--seed="$$SEED"})

bench-micro: $(VENV)/dev ## measure what tracing adds to single calls, in about a minute
	$(call run,$(WAYBILL) bench-micro)

capacity: $(VENV)/tool ## show what a rate of spans needs at each stage, from measured figures, and what breaks first
##   RATE=5000            spans per second, before sampling; by default 1,000 to 1,000,000
##   KEEP=0.1             the share that sampling keeps
	$(call run,$(WAYBILL) capacity $${RATE:+--rate="$$RATE"} $${KEEP:+--keep="$$KEEP"})

check: lint ## run this after each change: lint, types, and the tests that need only Python; under a minute
	$(VENV)/bin/pytest --quiet --numprocesses auto -m "not processes" tests/unit tests/telemetry

test: $(VENV)/dev ## run all tests except those of the targets below
	WAYBILL_METRICS=on $(VENV)/bin/python -m waybill binaries >/dev/null
	EXAMPLES=200 $(VENV)/bin/pytest --numprocesses 5 tests --ignore tests/docker --ignore tests/faults --ignore tests/celery_shop \
		--ignore tests/kubernetes --ignore tests/packages

test-docker: $(VENV)/dev ## test the compose stack: start it, use it, stop it
	$(VENV)/bin/pytest tests/docker

test-packages: $(VENV)/dev ## test the wheels in empty environments, and telemetry with the oldest and newest versions that it allows
	$(VENV)/bin/pytest --numprocesses 2 tests/packages

test-faults: $(VENV)/dev ## disconnect, stop and kill parts under load, then check the books, the ledger and the doctor
##   SEED=7               repeat a run
##   RHYTHM=2             kill twice as often
	SEED=$${SEED:-1} $(VENV)/bin/pytest --numprocesses 3 tests/faults tests/celery_shop

test-kubernetes: $(VENV)/dev ## test the three overlays on kubectl's cluster: updates, kills, scaling and policies under load
	$(VENV)/bin/pytest tests/kubernetes

kubernetes-files: ## copy the configurations of the Collector, Jaeger and nginx into deploy/kubernetes, where kubectl reads them
	cp deploy/edge/nginx.conf deploy/kubernetes/base/edge-nginx.conf
	cp collector-config.yaml deploy/kubernetes/overlays/demo/collector-config.yaml
	cp deploy/jaeger.yaml deploy/kubernetes/overlays/demo/jaeger-config.yaml
	cp collector-config.yaml collector-agent.yaml collector-sampler.yaml collector-sampling.yaml \
		deploy/jaeger-opensearch.yaml deploy/kubernetes/overlays/scale
	cp deploy/jaeger.yaml deploy/kubernetes/overlays/scale/jaeger-config.yaml

trees: $(VENV)/dev ## rewrite every tree of the documents and the tests from real runs; review them like code
	UPDATE_TREES=1 $(VENV)/bin/pytest tests/trace tests/gallery tests/adopting tests/celery_shop tests/unit/test_blocks.py \
		tests/unit/test_walkthroughs.py tests/system/test_walkthroughs.py

doctor-table: $(VENV)/dev ## rewrite the tables of docs/doctor.md from the doctor's code
	UPDATE_TREES=1 $(VENV)/bin/pytest --quiet tests/unit/test_doctor_faults.py -k document

live-check: $(VENV)/dev ## make the services do everything they can, and check what they send against telemetry-schema/
##   FORWARD=http://127.0.0.1:4317    forward it, for example to Weaver's live-check
	LIVE_CHECK_FOLDER=.waybill/live-check LIVE_CHECK_FORWARD="$$FORWARD" $(VENV)/bin/pytest tests/system/test_live_check.py

telemetry-docs: $(VENV)/dev ## rewrite the tables of docs/telemetry.md and chassis/names.py from telemetry-schema/
	UPDATE_TREES=1 $(VENV)/bin/pytest --quiet tests/unit/test_telemetry_docs.py

lint: $(VENV)/dev ## check style, types, and which folder imports which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lint-workflows: $(VENV)/dev ## check the workflows on GitHub with actionlint, which needs Go, and against their schemas
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	$(CHECK_SCHEMA) --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(CHECK_SCHEMA) --builtin-schema vendor.dependabot .github/dependabot.yml

CHECK_SCHEMA = $(VENV)/bin/uv tool run --quiet --from check-jsonschema==0.39.0 check-jsonschema
# Not part of it: its schema has to be fetched from GitHub.
lint-devcontainer: $(VENV)/dev ## check the devcontainer against the schema of its specification
	$(CHECK_SCHEMA) .devcontainer/devcontainer.json --schemafile \
		https://raw.githubusercontent.com/devcontainers/spec/main/schemas/devContainer.base.schema.json

LOCK = $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet
lock: $(VENV)/dev ## compile requirements/*.txt from pyproject.toml
	$(LOCK) --output-file requirements/services.txt
	$(LOCK) --extra tool --constraint requirements/services.txt --output-file requirements/tool.txt
	$(LOCK) --extra tool --extra dev --constraint requirements/tool.txt --output-file requirements/dev.txt

# A stamp for each set of requirements: done only when the installation has ended well.
$(VENV)/tool $(VENV)/dev: $(VENV)/%: requirements/%.txt
	$(call run,$(PYTHON) -I waybill/environment.py $(VENV) $< . && touch $@)

.PHONY: help setup demo up down status retention load load-ui drill incident incidents grade ledger trace logs dead-letters doctor doctor-table \
	live-check telemetry-docs score bench bench-micro capacity check test test-docker test-packages test-faults test-kubernetes \
	kubernetes-files trees lint lint-workflows lint-devcontainer lock
