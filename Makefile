# Everything runs in the virtual environment .venv; `make` alone lists the targets.
# Needed beforehand: Python 3.11 or newer with venv and headers, a C compiler, make.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CORE := $(wildcard fastgw/*.pyx fastgw/_core/*.pxi fastgw/_core/*.pxd) setup.py

# WHY: extras are read from pyproject.toml instead of installing ".[test]", which would compile the
# extension again each time an extra is added.
define DEPENDENCIES
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras, wanted, lines = project["optional-dependencies"], sys.argv[1:], project["dependencies"]
for extra in wanted:
    for line in extras[extra]:
        if line.startswith("fastgw["):
            wanted.extend(line[7:-1].split(","))
        else:
            lines.append(line)
print("\n".join(lines))
endef
export DEPENDENCIES

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help serve test suites conformance fuzz slow faults lint format types coverage bench micro demo asan build clean

help:
	@echo "make serve      start the gateway with its embedded broker     ARGS='--listen HOST:PORT'"
	@echo "make test       run the tests                                  ARGS='-k word'"
	@echo "make suites     the JSON Schema suite, and the API by its document  ARGS='--suite CHECKOUT'"
	@echo "make conformance  HTTP suites, beside peers   ARGS='--peer nginx --suite llhttp=CHECKOUT'"
	@echo "make fuzz       guided fuzzing on a sanitized build (clang)    ARGS='http --runs 1000000'"
	@echo "make faults     kill, freeze, cut real processes under load; audit ARGS='--only leader'"
	@echo "make slow       slow and hostile clients beside good ones      ARGS='--clients 50'"
	@echo "make lint       ruff: rules and format (make format rewrites)"
	@echo "make types      mypy --strict, and the compiled core against its typed face"
	@echo "make coverage   the tests with line coverage, the core's parts included"
	@echo "make bench      the table beside the C floor and the peers    ARGS='latency' (consume, memory,"
	@echo "                scale, bodies, pipeline, start, single, batch, plots, compare A B; all of"
	@echo "                them: all; the targets: table --write README.md docs/performance.md)"
	@echo "make micro      the micro benchmarks                           ARGS='--check'"
	@echo "make demo       send real payloads through a gateway and read them back"
	@echo "make asan       the tests with AddressSanitizer and UBSAN in the core"
	@echo "make build      sdist and wheel in dist/"
	@echo "make clean      remove what was built, the virtual environment too; data stays"
	@echo "Another interpreter: make PYTHON=python3.12 …"

# --- the environment and the extension -----------------------------------------------------------

$(VENV)/stamp-venv: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fastgw needs Python 3.11 or newer; '$(PYTHON)' is `$(PYTHON) -V 2>&1`." \
	    "Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null 2>&1 || { \
	  echo "No C compiler ($${CC:-cc}) found; on Debian: apt-get install gcc" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; \
	  sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "'$(PYTHON)' has no C headers; on Debian: apt-get install python3-dev" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install -c constraints.txt setuptools Cython
	@touch $@

$(VENV)/stamp-extra-%: $(VENV)/stamp-venv pyproject.toml
	@echo "Installing what '$*' needs ..."
	@$(BIN)/python -c "$$DEPENDENCIES" $* > $(VENV)/requirements-$*.txt
	@$(PIP) install -c constraints.txt -r $(VENV)/requirements-$*.txt
	@touch $@

$(VENV)/stamp-build: $(CORE) pyproject.toml fastgw/__init__.py | $(VENV)/stamp-extra-embedded
	@echo "Building the extension ($${FASTGW_BUILD:-release}) ..."
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# --- run -----------------------------------------------------------------------------------------

serve: $(VENV)/stamp-extra-schemas $(VENV)/stamp-build
	@exec $(BIN)/fastgw serve $(ARGS)

demo: $(VENV)/stamp-extra-test $(VENV)/stamp-build
	@$(BIN)/python -m demo $(ARGS)

bench: $(VENV)/stamp-extra-bench $(VENV)/stamp-build
	@$(BIN)/python -m benchmarks $(ARGS)

micro: $(VENV)/stamp-extra-bench $(VENV)/stamp-build
	@$(BIN)/python -m benchmarks.micro $(ARGS)

# --- check ---------------------------------------------------------------------------------------

test: $(VENV)/stamp-extra-test $(VENV)/stamp-build
	@$(BIN)/python -m pytest $(ARGS)

suites: $(VENV)/stamp-extra-test $(VENV)/stamp-extra-suites $(VENV)/stamp-build
	@$(BIN)/python -m tests.suites.json_schema $(ARGS)
	@$(BIN)/python -m tests.suites.api_fuzz

conformance: $(VENV)/stamp-extra-test $(VENV)/stamp-extra-bench $(VENV)/stamp-build
	@$(BIN)/python -m tests.conformance $(ARGS)

faults: $(VENV)/stamp-extra-test $(VENV)/stamp-build
	@$(BIN)/python -m tests.faults $(ARGS)

slow: $(VENV)/stamp-extra-test $(VENV)/stamp-build
	@$(BIN)/python -m tests.slow $(ARGS)

lint: $(VENV)/stamp-extra-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/stamp-extra-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/stamp-extra-dev $(VENV)/stamp-build
	@$(BIN)/mypy
	@# WHY --ignore-missing-stub: the stub is the face; what it leaves out is nobody's business.
	@PYTHONPATH=. $(BIN)/python -m mypy.stubtest --ignore-missing-stub \
	  --mypy-config-file pyproject.toml fastgw._core

# WHY: the traced and the sanitized flavours live in a copy of the tree, so that neither replaces
# the extension that `make serve` runs. The plugin wants the generated C beside the extension.
COPIED := $(wildcard fastgw tests benchmarks demo docs deploy examples setup.py pyproject.toml README.md LICENSE)
flavour = rm -rf build/$(1) && mkdir -p build/$(1) && cp -R $(COPIED) build/$(1)/ && \
  cd build/$(1) && rm -f fastgw/_core*.so && FASTGW_BUILD=$(1) $(CURDIR)/$(BIN)/python setup.py --quiet \
  build_ext --inplace && cp build/cython-$(1)/fastgw/_core.c fastgw/_core.c

coverage: $(VENV)/stamp-extra-dev $(VENV)/stamp-build
	@echo "Building the extension (trace) in build/trace ..."
	@$(call flavour,trace)
	@cd build/trace && rm -f .coverage* && export PYTHONPATH="$(CURDIR)/build/trace" && \
	  $(CURDIR)/$(BIN)/python -m coverage run -m pytest -q $(ARGS) && \
	  $(CURDIR)/$(BIN)/python -m coverage combine -q && \
	  $(CURDIR)/$(BIN)/python -m coverage json -q -o coverage.json --fail-under=0 && \
	  $(CURDIR)/$(BIN)/python -m coverage report && \
	  $(CURDIR)/$(BIN)/python $(CURDIR)/.ci/parts_covered.py coverage.json

asan: $(VENV)/stamp-extra-dev $(VENV)/stamp-build
	@echo "Building the extension (asan) in build/asan ..."
	@$(call flavour,asan)
	@cd build/asan && PYTHONPATH="$(CURDIR)/build/asan" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so)" \
	  $(CURDIR)/$(BIN)/python -m pytest $(ARGS)

fuzz: $(VENV)/stamp-extra-dev $(VENV)/stamp-extra-fuzz $(VENV)/stamp-build
	@echo "Building the extension (fuzz) in build/fuzz ..."
	@export CC=clang && $(call flavour,fuzz)
	@cd build/fuzz && PYTHONPATH="$(CURDIR)/build/fuzz" $(CURDIR)/$(BIN)/python -m tests.fuzz \
	  --kept "$(CURDIR)/build/fuzz-kept" $(ARGS)

build: $(VENV)/stamp-extra-dev
	@rm -rf dist
	@PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/python -m build --outdir dist . \
	  > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@ls -l dist

clean:
	@rm -rf build dist $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov
	@rm -f fastgw/_core*.so fastgw/_core.c fastgw/_core.html .coverage .coverage.*
	@find fastgw tests benchmarks demo -name __pycache__ -type d -prune -exec rm -rf {} +
