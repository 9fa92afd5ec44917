# cxrd: set up, run, test. `make` alone lists what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; PYTHON=/path/to/python takes another.
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
# Python compiles what is imported at its first import; compiling everything beforehand doubles the time of set-up.
# Where the environment forbids Python to keep what it compiled, each start would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
# What is installed: exactly these releases, each file held to its hash. `make lock` chooses them anew. LOCK= takes the
# newest that pyproject.toml allows instead, without hashes: for an index whose files are not those of PyPI.
LOCK := requirements/serving.txt
# What serves is compiled at the set-up: a service may run as a user who must not write here, and compiling takes 100 MB.
COMPILE := $(BIN)/python -c 'import worker.engines.supervisor, worker.engines.receiver, worker.engines.workers, worker.engines.couriers'

# Installs cxrd and what a list of releases holds, by its hash: also what builds cxrd, which goes into a folder of its own
# for that time. Arguments: what pip is told besides, and the list; without a list pip chooses.
define install
$(if $(2),$(PIP) $(1) $(PIP_ARGS) --require-hashes --requirement $(2) && \
	rm -rf $(VENV)/build && \
	$(PIP) --quiet $(PIP_ARGS) --require-hashes --requirement requirements/build.txt --target $(VENV)/build && \
	PYTHONPATH='$(CURDIR)/$(VENV)/build' $(PIP) $(1) --no-deps --no-build-isolation --editable . && \
	rm -rf $(VENV)/build,\
	$(PIP) $(1) $(PIP_ARGS) --editable .)
endef

# The programs that choose releases and look at them: in an environment of their own, which is not looked at.
TOOLS := $(VENV)/tools
LOCKED := requirements/extras.txt requirements/build.txt requirements/tools.txt
COMPILE_LOCK = UV_CUSTOM_COMPILE_COMMAND='make lock' $(TOOLS)/bin/uv --no-config pip compile --quiet --upgrade \
	--universal --python-version 3.11 --generate-hashes

# A .venv that was copied with its folder still runs the program of the folder where it was made: it is made anew.
MADE_AT := $(shell sed -n 's|^command = .* -m venv [^/]*/|/|p' $(VENV)/pyvenv.cfg 2>/dev/null)
COPIED := $(if $(MADE_AT),$(shell [ "$$(cd '$(MADE_AT)' 2>/dev/null && pwd -P)" = "$$(cd $(VENV) && pwd -P)" ] || echo yes))

# The OHIF viewer, from its npm package: for `make demo VIEWER=1` and for the tests, not part of cxrd.
OHIF := 3.12.0
VIEWER_FILES := .viewer/ohif-$(OHIF)/dist

.PHONY: help install serve demo viewer test test-fast lint format lock audit sbom licences torture fuzz bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Variables: CONFIG= (serve, demo), IMAGES=, OUT= and VIEWER=1 (demo), ARGS= (test, test-fast, torture, fuzz, bench),'
	@echo '           WORKERS= (test, test-fast: how many tests run at once; 0 runs them in one process),'
	@echo '           CASES= and SEED= (fuzz),'
	@echo '           LOCK= (install, test: another list of releases, or none), PYTHON= (3.11 or newer),'
	@echo '           PIP_ARGS= (what pip needs, such as another index)'

install: $(VENV)/.stamp-install ## Set up .venv with the cxrd command: what serving needs, no extras

serve: install ## Set up, then run the worker: AE title CXRD, port 11112, on 127.0.0.1
	@$(BIN)/cxrd serve $(if $(CONFIG),--config '$(CONFIG)')

demo: install $(if $(VIEWER),viewer) ## Set up, then send radiographs (IMAGES=folder, or drawn ones) and show what comes back
	@$(BIN)/cxrd demo $(if $(VIEWER),--viewer '$(VIEWER_FILES)') $(if $(IMAGES),--images '$(IMAGES)') $(if $(OUT),--out '$(OUT)') $(if $(CONFIG),--config '$(CONFIG)')

viewer: $(VIEWER_FILES)/index.html ## Fetch the OHIF viewer from npm (48 MB): demo VIEWER=1 shows the studies in it

# Test modules run side by side, in the order of collection: the longest come first (tests/conftest.py).
WORKERS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(VENV)/.stamp-test ## Set up what the tests need (torch too), then run all of them
	@$(PYTEST) $(ARGS)

test-fast: $(VENV)/.stamp-test ## Run the unit tests that take less than ten seconds each
	@$(PYTEST) tests/unit -m 'not slow' $(ARGS)

lint: $(VENV)/.stamp-test ## Check style, types, security, YAML and, where hadolint is there, the Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml dicom_io modeltrain worker benchmarks
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint docker/Dockerfile.*; fi

format: $(VENV)/.stamp-test ## Put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(TOOLS)/.stamp ## Choose the releases anew, the newest of PyPI, and write them with their hashes to requirements/
	@$(COMPILE_LOCK) $(patsubst %,--extra %,evaluate pdf dicomweb hl7 postgres) pyproject.toml -o requirements/extras.txt
	@$(COMPILE_LOCK) --extra pdf --extra postgres --constraint requirements/extras.txt pyproject.toml -o requirements/container.txt
	@$(COMPILE_LOCK) --constraint requirements/extras.txt pyproject.toml -o requirements/serving.txt
	@$(COMPILE_LOCK) --group build -o requirements/build.txt
	@$(COMPILE_LOCK) --group tools -o requirements/tools.txt

audit: $(TOOLS)/.stamp ## Ask PyPI's advisory database whether a release in requirements/ has a known vulnerability
	@mkdir -p build
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --progress-spinner off $(LOCKED:%=--requirement %) >build/audit 2>&1 || { \
	if grep -q '^Found ' build/audit; then cat build/audit; else \
	echo "make audit: the advisory database did not answer, and nothing is known: $$(tail -n 1 build/audit)"; fi >&2; exit 1; }
	@cat build/audit

sbom: install $(TOOLS)/.stamp ## Write what is installed in .venv as CycloneDX to build/sbom.json, licences and all
	@mkdir -p build
	@sed "s/^dynamic = .*/version = \"$$($(BIN)/cxrd --version | cut -d' ' -f2)\"/" pyproject.toml >build/pyproject.toml
	@$(TOOLS)/bin/cyclonedx-py environment --pyproject build/pyproject.toml --output-file build/sbom.json $(BIN)/python
	@echo 'build/sbom.json'

licences: install $(TOOLS)/.stamp ## List the licences of what is installed in .venv
	@$(TOOLS)/bin/pip-licenses --python $(BIN)/python --from mixed --with-urls --order license

torture: $(VENV)/.stamp-test ## Kill it 300 times at work, and see that every promise holds (ARGS='--kills 1000')
	@$(BIN)/python -m tests.acceptance.torture $(ARGS)

# A case follows from its seed, its harness and its number alone: ARGS='--harness node --seed 3 --number 17' repeats one.
CASES ?= 30000
SEED ?= 0

fuzz: $(VENV)/.stamp-test ## Send 30,000 cases of damaged input to all that reads input (CASES=, SEED=, ARGS=)
	@$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED) $(ARGS)

bench: $(VENV)/.stamp-test ## Run all benchmarks; numbers and pictures into build/bench
	@$(BIN)/python -m benchmarks.suite --out build/bench $(ARGS)

$(VIEWER_FILES)/index.html:
	@command -v npm >/dev/null || { echo 'fetching the viewer needs npm (Debian: apt install npm)' >&2; exit 1; }
	@rm -rf .viewer/new && mkdir -p .viewer/new
	@cd .viewer/new && npm pack --silent '@ohif/app@$(OHIF)' >/dev/null && tar -xzf *.tgz
	@rm -rf '.viewer/ohif-$(OHIF)' && mv .viewer/new/package '.viewer/ohif-$(OHIF)' && rm -rf .viewer/new

clean: ## Remove what was set up or cached; data, results and models stay
	rm -rf $(VENV) .viewer .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

ifeq ($(COPIED),yes)
$(VENV)/.anew: # a file that is never there
	@echo '$(VENV) was copied from $(MADE_AT): setting it up anew here, without extras'
	@rm -rf $(VENV)

$(BIN)/python $(VENV)/.stamp-install $(VENV)/.stamp-test: $(VENV)/.anew
endif

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'cxrd needs Python 3.11 or newer, and there is none on the PATH (PYTHON=/path/to/python3 names one)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo 'cxrd needs Python 3.11 or newer, which $(PYTHON) is not' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) comes without the venv module: install it (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.stamp-install: pyproject.toml $(LOCK) requirements/build.txt | $(BIN)/python
	@echo 'Setting up $(VENV): half a minute to some minutes, by the network'
	@$(call install,--quiet,$(LOCK))
	@$(COMPILE)
	@touch $@

$(TOOLS)/.stamp: requirements/tools.txt | $(BIN)/python
	@$(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) --require-hashes --requirement $<
	@touch $@

# What the tests need holds all that serving needs, so that `make install` has nothing left to do.
$(VENV)/.stamp-test: pyproject.toml $(LOCK) requirements/build.txt | $(BIN)/python
	@echo 'Setting up $(VENV) for the tests, with torch: several gigabytes on Linux (CONTRIBUTING.md says how to take less)'
	@$(call install,,$(LOCK:%/serving.txt=%/extras.txt))
	@$(PIP) $(PIP_ARGS) --editable '.[dev]'
	@$(COMPILE)
	@touch $@ $(VENV)/.stamp-install
