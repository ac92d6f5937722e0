# make demo      sets up .venv and shows the whole tool on the checkpoint that ships with the project
# make test      sets up .venv with the development tools, then runs every check and every test
# make chromium  installs the browser in which tests open pages; Debian and its like, as root
# make quick     the tests that take no time, in under a minute
# make lint      the checks alone
# make random    the random tests on new cases, for longer: make random DRAWS=20
# make coverage  the tests, and which lines of which file none of them runs
# make quick-without-torch  the tests that take no time, and a few of Lava, MPI and the command line, in an
#                environment without torch: VENV=.venv-3.12 PYTHON=python3.12
# make test-without-torch  every test that needs no torch, in such an environment
# make packages  builds what users install, and uses it in new environments of every Python here; needs a package index
# make docs      writes the documentation as a site to build/site
# make clean     removes .venv and whatever the tools cached
#
# Another interpreter (Python 3.10 to 3.13): make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv
DRAWS ?= 10

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
QUICK := not slow and not lava and not mpi and not kernels
AS_PINNED := --no-deps --ignore-requires-python
# A worker for each core.  Each computes on one thread, as the others have the rest of the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test chromium docs quick random coverage quick-without-torch test-without-torch packages lint clean

demo: $(VENV)/.torch-stamp
	$(BIN)/mmfree-neuro demo

test: lint
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || echo 'No Chromium is here, so no page is opened in a browser: `make chromium` installs it.'
	$(PYTEST)

chromium:
	apt-get update && apt-get install -y --no-install-recommends chromium

quick: $(VENV)/.dev-stamp
	$(PYTEST) -m "$(QUICK)"

random: $(VENV)/.dev-stamp
	$(PYTEST) --draws $(DRAWS)

coverage: $(VENV)/.dev-stamp
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

quick-without-torch: $(VENV)/.quick-stamp
	$(PYTEST) -m "smoke or ($(QUICK))"

test-without-torch: $(VENV)/.test-stamp
	$(PYTEST)

packages:
	$(PYTHON) tools/check_packages.py

lint: $(VENV)/.dev-stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev-stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis build *.egg-info
	rm -f kernels/mmfree_kernels/cpu/*.so sims/mmfree_sims/emulator/*.so .coverage
	find . -name __pycache__ -type d -not -path './.*' -prune -exec rm -rf {} +

# The environment is named explicitly but was made by another Python: say so instead of using the wrong one.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
WHICH := -c 'import sys; print(sys.base_prefix, *sys.version_info)'
ifneq ($(shell $(PYTHON) $(WHICH)),$(shell $(BIN)/python $(WHICH)))
ifeq ($(filter clean,$(MAKECMDGOALS)),)
$(error $(VENV) was made by another Python than $(PYTHON): run `make clean` first, or name another folder with VENV=)
endif
endif
endif
endif

$(VENV)/.runtime-stamp: requirements/runtime.txt requirements/text.txt requirements/lava.txt pyproject.toml setup.py $(wildcard kernels/mmfree_kernels/cpu/*.[ch] sims/mmfree_sims/emulator/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "$(PYTHON) must be Python 3.10, 3.11, 3.12 or 3.13; choose one with PYTHON=..."; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements/runtime.txt
	$(PIP) --no-deps -r requirements/text.txt
	$(PIP) $(AS_PINNED) -r requirements/lava.txt
	@# Compiled parts of one Python, as older checkouts built them, would be taken before those of all.
	@rm -f kernels/mmfree_kernels/cpu/*.cpython-31[1-3]-*.so sims/mmfree_sims/emulator/*.cpython-31[1-3]-*.so
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.torch-stamp: $(VENV)/.runtime-stamp requirements/torch.txt
	$(PIP) -r requirements/torch.txt
	@touch $@

$(VENV)/.quick-stamp: $(VENV)/.runtime-stamp requirements/quick.txt
	$(PIP) --no-deps -r requirements/quick.txt
	@touch $@

$(VENV)/.test-stamp: $(VENV)/.quick-stamp requirements/test.txt
	$(PIP) --no-deps -r requirements/test.txt
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.torch-stamp $(VENV)/.test-stamp requirements/dev.txt requirements/hf.txt requirements/browser.txt requirements/docs.txt
	$(PIP) $(AS_PINNED) -r requirements/dev.txt
	$(PIP) --no-deps -r requirements/hf.txt
	$(PIP) --no-deps -r requirements/browser.txt
	$(PIP) --no-deps -r requirements/docs.txt
	@touch $@
