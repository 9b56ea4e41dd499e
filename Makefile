# make demo | test | soak | lint | tiny | clean      (Python 3.11 or newer and make are all it needs)
#
# Settings, each on the command line or in the environment:
#   PYTHON       the interpreter that makes the environment            default python3
#   VENV         where it is made                                      default .venv
#   VENV_ARGS    more for `python -m venv`, e.g. --system-site-packages (use the machine's own torch)
#   CONSTRAINTS  a pip constraints file; empty: nothing is pinned      default constraints.txt
#   PIP_ARGS     more for `pip install`
#   WORKERS      processes that run tests, each with one thread        default auto: one a core, at most 8
# The settings that made an environment are kept in it (settings.mk), so that a later plain call goes on with them.

VENV ?= .venv
-include $(VENV)/settings.mk
PYTHON ?= python3
VENV_ARGS ?=
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
WORKERS ?= auto

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(PIP_ARGS)
# Seconds since `started` (a shell variable of the same recipe line).
ELAPSED = $$(( $$(date +%s) - started )) s

.PHONY: demo test soak lint tiny clean help
.DELETE_ON_ERROR:

help:
	@sed -n '1,10s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-core
	@started=$$(date +%s); $(BIN)/gazeqwen demo --out demo_out && echo "make demo: ran in $(ELAPSED)"

# One thread a process: the tests' tensors are small, and threads that wait for each other cost more than they give. A
# file's tests stay in one process, because they share what they made.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile

# pytest prints the skipped tests with their reasons; from the XML, .ci/run prints them again at its end.
test: $(VENV)/.installed-dev
	@mkdir -p build; started=$$(date +%s); status=0; \
	$(PYTEST) -m "not soak" --junitxml=build/test.xml || status=$$?; \
	echo "make test: ran in $(ELAPSED)"; exit $$status

soak: $(VENV)/.installed-dev
	@mkdir -p build; started=$$(date +%s); status=0; \
	$(PYTEST) -m soak --durations=0 --junitxml=build/soak.xml || status=$$?; \
	if [ $$status -eq 5 ]; then echo "make soak: no test is marked soak"; fi; \
	echo "make soak: ran in $(ELAPSED)"; exit $$status

# The embedded model from nothing, into runs/tiny: hours on two cores. Goes on where it was stopped.
tiny: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.tiny --work runs/tiny

# All three, whatever the first one finds.
lint: $(VENV)/.installed-dev
	@status=0; for check in "ruff check ." "ruff format --check ." "pyright --pythonpath $(BIN)/python"; do \
	  echo "$$check"; $(BIN)/python -m $$check || status=1; done; exit $$status

clean:
	rm -rf $(VENV) build demo_out

# torch goes first, alone: a range in some other package's requirements would let pip take a newer build of it, with
# several GB of CUDA libraries. Without constraints there is nothing to take first, and a torch that is there stays.
$(VENV)/.installed-core: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	@started=$$(date +%s); set -e; \
	$(if $(CONSTRAINTS),$(PIP_INSTALL) torch;) \
	$(PIP_INSTALL) -e .; \
	echo "make: installed the core in $(ELAPSED)"; touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-core
	@started=$$(date +%s); set -e; \
	$(PIP_INSTALL) -e '.[app,train,dev]'; \
	echo "make: installed the extras app, train and dev in $(ELAPSED)"; touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: '$(PYTHON)' not found: install Python 3.11 or newer, or name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is older than 3.11: name a newer one, e.g. make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module: install it (Debian, Ubuntu: the package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV_ARGS) $(VENV)
	@printf '%s ?= %s\n' PYTHON '$(PYTHON)' VENV_ARGS '$(VENV_ARGS)' CONSTRAINTS '$(CONSTRAINTS)' PIP_ARGS '$(PIP_ARGS)' \
	  > $(VENV)/settings.mk
	@touch $@
