# From a fresh clone and Python >= 3.11 to a trained model:  make demo
#
#   make demo    set up .venv, train on the embedded digits, print the table   (runs/demo/)
#   make test    set up .venv with the test extra, run the tests
#   make test-fast   those that need no Ray, browser or compiler
#   make check   format, lint, types, layering
#   make docs    set up .venv with the docs extra, build the site strictly           (site/)
#   make wheel   cross-compile the kernel for all platforms, build the wheel      (dist/)
#   make release   wheel and sdist, both checked                                 (dist/)
#   make lock    write requirements/*.txt from what .venv holds
#   make clean   remove .venv
#
# Another Python:  make demo PYTHON=python3.12  (without it, an existing .venv keeps its own).
# pip's own settings apply as usual (PIP_INDEX_URL, PIP_FIND_LINKS): where the index of your pip
# offers a CPU build of torch, you get that one.

SHELL := /bin/sh
BIN := .venv/bin
PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check
DIST ?= dist
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
TORCH := $(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))'

# Single-threaded torch in each of two workers: the tests' models are too small for more threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test test-fast check docs kernels digests wheel try-wheel release lock clean
.DELETE_ON_ERROR:

demo: .venv/.demo
	$(BIN)/anytime demo

test: .venv/.test
	$(PYTEST) -n 2 --dist loadfile

test-fast: .venv/.test
	$(PYTEST) -n 2 --dist loadfile -m fast

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_layering.py

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

# PLATFORMS='linux-x86_64 ...' builds the kernels of these alone.
kernels: .venv/.dev
	$(BIN)/python release/kernels.py $(PLATFORMS)

digests: .venv/.dev
	$(BIN)/python release/digests.py

# The same commit gives the same wheel: files carry the time of the commit. setuptools would also pack
# what an earlier build has left.
wheel: kernels
	rm -rf build
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} \
	  $(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(DIST) .

try-wheel: .venv/.dev
	rm -rf runs/wheel
	$(MAKE) wheel DIST=runs/wheel PLATFORMS="$$($(BIN)/python -c \
	  'from anytime_ar.kernel.loading import this_platform; print(this_platform())')"
	$(BIN)/python release/try_wheel.py runs/wheel/*.whl

# The wheel is tried as by `try-wheel`, and so is a wheel that is built from the sdist.
release: .venv/.dev
	rm -rf $(DIST)
	$(MAKE) wheel
	$(BIN)/python release/try_wheel.py $(DIST)/*.whl
	$(BIN)/python -c 'import setuptools.build_meta as build; build.build_sdist("$(DIST)")'

lock: .venv/.dev .venv/.docs
	$(BIN)/python requirements/lock.py

clean:
	rm -rf .venv

# A stamp per layer, so that a second `make` installs nothing unless a lock or pyproject.toml changed.

.venv/.python-$(VERSION):
	@test -n "$(VERSION)" || { \
	  echo "make: '$(PYTHON)' does not run; install Python >= 3.11, or name it: make PYTHON=python3.12"; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is Python $(VERSION), and 3.11 or newer is needed; name one: make PYTHON=python3.12"; \
	  exit 1; }
	@test ! -x $(BIN)/python || $(BIN)/python -c \
	  'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' || { \
	  echo "make: .venv does not hold Python $(VERSION); 'make clean' removes it"; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot create environments; on Debian and Ubuntu: apt install python$(VERSION)-venv"; \
	  exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version >/dev/null || { \
	  echo "make: .venv is unfinished; 'make clean' removes it"; \
	  exit 1; }
	touch $@

# torch comes first and alone, at its pin: resolved together with the rest, it could come in another
# build. Its full version is kept, and every later layer must find it unchanged.
.venv/.torch: .venv/.python-$(VERSION) requirements/core.txt
	$(PIP) install --constraint requirements/core.txt torch
	$(TORCH) > $@

.venv/.core: .venv/.torch requirements/core.txt pyproject.toml
	$(PIP) install -r requirements/core.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(assert-torch)
	touch $@

.venv/.demo: .venv/.core requirements/demo.txt
	$(PIP) install -r requirements/demo.txt
	$(assert-torch)
	touch $@

.venv/.test: .venv/.demo requirements/test.txt
	$(PIP) install -r requirements/test.txt
	$(assert-torch)
	touch $@

.venv/.dev: .venv/.test requirements/dev.txt
	$(PIP) install -r requirements/dev.txt
	$(assert-torch)
	touch $@

.venv/.docs: .venv/.test requirements/docs.txt
	$(PIP) install -r requirements/docs.txt
	$(assert-torch)
	touch $@

define assert-torch
@$(PIP) check
@now=$$($(TORCH)); grep -qxF "torch==$${now%%+*}" requirements/core.txt && grep -qxF "$$now" .venv/.torch || { \
  echo "make: torch was replaced: $$(cat .venv/.torch) became $$now; a dependency asks for another"; exit 1; }
endef
