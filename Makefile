# Everything a developer runs. Two commands are enough for everybody else: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := $(VENV)/.demo
READY  := $(VENV)/.ready
PORT   ?= 8000
# Tests wait as often as they compute.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
QUICK  := $(addprefix tests/,request tracing logs metrics privacy settings catalog operations health alerting packs endpoints delivery \
            legacy monitoring test_architecture.py test_public_api.py test_smoke.py)
SERVICES := sage-backend ai-textbook-core customer-id rfs-demo

.DEFAULT_GOAL := help
.PHONY: help demo stack-native export test quick soak coverage check bench docs format servers clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(DEMO) ## Run the example app under live traffic, with its page, metrics and logs
	@$(BIN)/python -m example_app --port $(PORT) $(addprefix --scenario ,$(SCENARIO))

stack-native: $(READY) servers ## Run demo services, Prometheus and Alertmanager without containers, and print alerts
	@$(BIN)/python -m example_app.stack

export: $(READY) ## Write the files under prometheus/, deploy/ and grafana/ anew
	@$(BIN)/sage-obs export all --out . $(foreach service,$(SERVICES),--settings deploy/services/$(service).yaml)

test: $(READY) servers ## Set everything up and pass the tests
	@echo "== tests (about fifteen minutes on two cores: they include a browser, another version of FastAPI, parts of its tests and Starlette's, and real servers)"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

quick: $(READY) ## Pass the tests of single parts, without servers; under two minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m "not stack" --ignore tests/logs/outputs --ignore tests/request/test_transparency.py $(QUICK)

soak: $(READY) servers ## Pass the long forms of tests: more examples, more requests, and all tests of others
	@SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m soak

coverage: $(READY) servers ## Pass the tests, and hold what they cover to the limit; half as long again
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q --cov --cov-report=
	@$(BIN)/python -m coverage report

screenshots: $(READY) servers ## Take pictures of the live page, for the README and to look at (about four minutes)
	@$(BIN)/python scripts/screenshots.py

check: $(READY) ## Lint, types and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Format, and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## Build the documentation as a site in build/site, and check its links
	@$(BIN)/zensical build --strict

bench: $(READY) ## Measure what it costs beside its peers (some twenty minutes)
	@$(PIP) --constraint constraints.txt --editable '.[otlp,bench]'
	@$(BIN)/python -m benchmarks

servers: ## Install the servers that tests talk to, where that can be done
	@scripts/install-servers.sh

clean: ## Remove what make has set up
	rm -rf $(VENV) .cache build/site tests/stack/grafana/node_modules .matrix .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	@echo "== setting up $(VENV) (about half a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --constraint constraints.txt --editable '.[otlp,demo]'
	@touch $@

$(READY): $(DEMO) tests/oracles.txt
	@echo "== setting up what the tests need (about a minute the first time)"
	@$(PIP) --constraint constraints.txt --editable '.[otlp,otlp-grpc,yaml,demo,grpc,kafka,postgres,redis,sqlalchemy,docs,test]'
	@$(PIP) --no-deps --requirement tests/oracles.txt
	@touch $@
