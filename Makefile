# `make` lists the targets. Nothing outside .venv/ is installed.

PYTHON ?= python3.11
UV := 0.13.8
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run test bench setup lock pins lint format clean FORCE

# A PYTHONPATH of the user's would be found before the locked packages;
# without compiled bytecode each of the many short jobs would compile its imports again.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# For programs that start others by name, as Snakemake does: those of .venv, from any folder and any PATH.
IN := PATH="$(CURDIR)/$(BIN):$$PATH"
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
# uv reads no pip.conf: hand it the package index that pip is told to use.
UVPIP := UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$($(BIN)/python -m pip config list | \
	sed -n "s/^[^=]*\.index-url='\(.*\)'$$/\1/p" | head -n 1)}" $(BIN)/uv pip
say = echo "setting up .venv: $(1)"

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r t what; do printf 'make %-8s %s\n' "$$t" "$$what"; done

run: setup ## run the workflow on this machine; more options in SNAKEMAKE_ARGS="-n"
	@$(IN) $(BIN)/snakemake --profile profiles/local $(SNAKEMAKE_ARGS)
	@$(IN) $(BIN)/cellmill summary

test: .venv/.test-ok ## run the tests; more options in PYTEST_ARGS="-k split"
	@$(IN) $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: .venv/.test-ok ## measure beside the peers; less in BENCH_ARGS="read --cells 20000"
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

setup: .venv/.ok ## make .venv from requirements.lock; another Python with PYTHON=python3.12

lock: .venv/.python ## resolve requirements.lock and requirements-test.lock again; newest versions with LOCK_ARGS=--upgrade
	@$(PIP) uv==$(UV)
	@$(call compile,3.11) pyproject.toml $(USER_EXTRAS) $(LOCK_ARGS) -o requirements.lock
	@$(call flat,requirements.lock,What `make setup` installs. Made by `make lock` from pyproject.toml.)
	@$(call compile,3.11) pyproject.toml --all-extras -c requirements.lock $(LOCK_ARGS) -o requirements-test.lock
	@$(call compile,3.11) --no-deps --group pyproject.toml:streaming >> requirements-test.lock
	@grep -vxFf requirements.lock requirements-test.lock > .venv/test.lock; mv .venv/test.lock requirements-test.lock
	@$(call flat,requirements-test.lock,What `make test` adds to requirements.lock. Made by `make lock` from pyproject.toml.)
	@for v in 3.12 3.13; do \
	  $(call compile,$$v) pyproject.toml $(USER_EXTRAS) -c requirements.lock > .venv/$$v.lock; \
	  $(call flat,.venv/$$v.lock,What `make setup` installs. Made by `make lock` from pyproject.toml.); \
	  diff requirements.lock .venv/$$v.lock || { echo "requirements.lock does not hold on Python $$v" >&2; exit 1; }; \
	done

pins: .venv/.test-ok ## explicit locks of the conda environments, where conda-forge is reached; PINS_ARGS="--cuda 12.8"
	@$(BIN)/python workflow/envs/make_pins.py $(PINS_ARGS)

lint: .venv/.test-ok ## what is checked besides the tests: ruff, snakefmt, mypy, hadolint, snakemake --lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile
	@$(IN) $(BIN)/snakemake --lint

format: .venv/.test-ok ## put code into its standard form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

clean: ## remove .venv and caches; results/ and resources/ stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests workflow bench -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment

# Which Python .venv was made with, and where. Rewritten, and .venv made anew, only where that changes:
# another PYTHON was asked for, this folder was moved, or the venv no longer starts.
.venv/.python: FORCE
	@die() { echo "$$1" >&2; exit 1; }; \
	hint="name another, as in: make $(firstword $(MAKECMDGOALS) setup) PYTHON=/path/to/python3.12"; \
	py="$(PYTHON)"; had=$$(cat $@ 2>/dev/null || true); \
	alive() { $(BIN)/python -c "import pip" 2>/dev/null; }; \
	if [ "$(origin PYTHON)" = file ]; then \
	  [[ "$$had" != "$(CURDIR) "* ]] || ! alive || exit 0; \
	  "$$py" -c "" 2>/dev/null || py=python3; \
	fi; \
	found=$$("$$py" -c 'import sys; print("%d.%d %s" % (sys.version_info[:2] + (getattr(sys, "_base_executable", sys.executable),)))' 2>/dev/null) || \
	  die "cellmill needs Python 3.11, 3.12 or 3.13, and there is no $$([ "$$py" = "$(PYTHON)" ] || echo "$(PYTHON) or ")$$py here: $$hint"; \
	version=$${found%% *}; \
	[[ "$$version" =~ ^3\.1[123]$$ ]] || die "cellmill needs Python 3.11, 3.12 or 3.13, and $$py is $$version: $$hint"; \
	[[ "$$had" != "$(CURDIR) $$found" ]] || ! alive || exit 0; \
	"$$py" -c "import venv, ensurepip" 2>/dev/null || \
	  die "$$py has no venv module (on Debian and Ubuntu: apt install python$$version-venv); install it, or $$hint"; \
	free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1e6)}'); \
	[ "$$free" -ge 6 ] || die "cellmill's .venv needs up to 6 GB of disk, and $(CURDIR) has $$free GB free."; \
	$(call say,Python $$version); \
	rm -rf .venv; "$${found#* }" -m venv .venv; echo "$(CURDIR) $$found" > $@

# torch by pip, which takes a CPU build where this machine's pip is told of one; uv leaves it alone and is ten times as fast.
# --no-deps: the lock is the whole truth.
.venv/.ok: .venv/.python requirements.lock pyproject.toml
	@rm -f $@
	@$(call say,torch (some 200 MB to download; some 3 GB where pip takes the CUDA build) ...)
	@$(PIP) -c requirements.lock torch
	@$(call say,$$(grep -c == requirements.lock) packages of requirements.lock ...)
	@$(call install,-r requirements.lock)
	@$(call say,cellmill)
	@$(call install,-e .)
	@touch $@

.venv/.test-ok: .venv/.ok requirements-test.lock
	@rm -f $@
	@$(call say,$$(grep -c == requirements-test.lock) packages of requirements-test.lock ...)
	@$(call install,-r requirements-test.lock)
	@touch $@

install = { $(PIP) uv==$(UV) && $(UVPIP) install -q -p $(BIN)/python --no-deps $(1); } || \
	{ $(call say,uv cannot; pip instead and slower ...); $(PIP) --no-deps $(1); }

# --- the locks

USER_EXTRAS := --extra workflow --extra torch --extra models --extra cloud --extra doublets
compile = $(UVPIP) compile -q --no-header --no-annotate --python-platform linux --python-version $(1)
# torch first and without the mark of one build; without what only its CUDA build asks for, which pip brings along.
flat = { echo '\# $(2)'; sed -n 's/^\(torch==[^+]*\).*/\1/p' $(1); \
	grep -vE '^(\#|torch==|torchvision|nvidia-|cuda-|triton)' $(1); } > .venv/flat.lock; mv .venv/flat.lock $(1)
