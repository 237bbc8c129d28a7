# Two commands matter: `make serve` and `make test`. Both set up what they need on a fresh machine.

PYTHON ?= python3.11
HOST ?= 127.0.0.1
PORT ?= 3000
ENGINE ?=

VENV := .venv
BIN := $(VENV)/bin
STATE := .state

.PHONY: serve test lint format bench setup setup-dev clean

serve: $(VENV)/.runtime
	@$(BIN)/python -m engine_build serve --host $(HOST) --port $(PORT) $(if $(ENGINE),--engine $(ENGINE))

test: lint
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(STATE)

$(VENV)/.python:
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by pip: on Linux a plain resolve would take the CUDA build with gigabytes of libraries.
$(VENV)/.runtime: requirements.lock | $(VENV)/.python
	@echo "Installing the runtime's packages (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing the development packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@
