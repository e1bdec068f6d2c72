# All set-up is done here, from git, make and Python 3.11 or newer. Each environment carries a stamp that is
# older than its lock file or pyproject.toml only when it has to be brought up to date.

.DEFAULT_GOAL := help
.PHONY: help demo stack check quick-tests test test-all test-lowest lint format docs dashboards bench baseline soak lock clean

# $(call first,CANDIDATES,CONDITION) prints the first Python that runs (a shim may not), fits and can make
# environments. The condition holds no comma.
first = for python in $(1); do "$$python" -c 'import sys, venv, ensurepip; sys.exit(not ($(2)))' \
	2>/dev/null && command -v "$$python" && break; done
usual = $(PYTHON) python3 python3.13 python3.12 python3.11
recent = sys.hexversion >= 0x030B0000
numbered = $(call first,python$(1) $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1).*/bin/python,\
	"%d.%d" % sys.version_info[:2] == "$(1)")

# In a new clone the environment is not there yet, and will be made of the first Python that fits.
mine = $(shell python=.venv/bin/python; [ -x $$python ] || python=$$($(call first,$(usual),$(recent))); \
	"$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
others = $(foreach version,$(filter-out $(mine),3.11 3.12 3.13),$(if $(shell $(call numbered,$(version))),$(version)))

LOCK := .venv/bin/uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"
ALL := pyproject.toml --extra otlp

# $(call install,VENV,LOCK FILE)
define install
	@echo "Installing $(2) into $(1)"
	@$(1)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-pip.lock
	@$(1)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(2)
	@$(1)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
endef

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: .venv/.runtime ## run a real workload and serve it; options go in ARGS="--trouble --once --path DIR"
	@.venv/bin/qorzen-obs demo $(ARGS)

stack: .venv/.runtime ## the demo with Prometheus and Alertmanager from the system's packages; ARGS="--port 8081"
	@.venv/bin/python -m dashboards.stack $(ARGS)

# Hundreds of programs are started, which would each compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Tests wait for programs and timers about as long as they compute, so there are more workers than processors.
PYTEST = bin/pytest -n 4 --dist worksteal
# These differ on each Python: what runs and ends tasks, what is seen of them while they run, and the small modules.
# All else is the same on each: what is drawn, generated or written about, what programs beside ours do, and what goes
# through aiohttp or OpenTelemetry whatever Python they run on.
DIFFERS = tests/contracts tests/unit tests/model/test_the_task_manager.py tests/performance/test_calls.py \
	tests/integration/engines tests/integration/manager tests/integration/server/test_live_stacks.py \
	$(addprefix tests/integration/telemetry/test_, log_lines.py loop_culprit.py run_spans.py \
	spans_of_every_engine.py)
SAME = $(addprefix --ignore , $(wildcard tests/unit/test_dashboard*.py tests/unit/test_top_*.py tests/unit/test_cli*.py) \
	$(addprefix tests/unit/test_, benchmark_goals.py docs.py end_timer.py guide_texts.py import_cost.py monitoring.py \
	negotiation.py otel_variables.py other_systems.py provisioning.py redaction.py reference.py rules.py \
	tracing_setup.py waterfall.py))

check: .venv/.dev ## style, types, and the tests of modules, seams and the model on one Python; under 90 seconds
	@$(MAKE) --no-print-directory -j 2 lint quick-tests

quick-tests: .venv/.dev
	.venv/bin/pytest -n 2 --dist worksteal -m "not slow" tests/unit tests/contracts tests/model tests/test_*.py $(ARGS)

test: ## all that CI runs: style, types, all tests on one Python, the rest on each one here
	@$(MAKE) --no-print-directory -j 2 lint $(patsubst %,.venv-%/.dev,$(others))
	@$(MAKE) --no-print-directory test-all $(addprefix test-,$(others))
	@echo "Tested on Python $(mine) $(others)"

test-all: .venv/.dev
	.venv/$(PYTEST) $(ARGS) || test $$? -eq 5

test-lowest: .venv-lowest/.dev ## the tests of `check` and of telemetry with the lowest versions that pyproject.toml allows
	.venv-lowest/$(PYTEST) -m "not slow" tests/unit tests/contracts tests/model tests/integration/telemetry $(ARGS)

test-%: .venv-%/.dev
	.venv-$*/$(PYTEST) -m "not slow" $(DIFFERS) $(SAME) $(ARGS) || test $$? -eq 5

lint: .venv/.dev ## ruff and mypy
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv/.dev ## bring the code into shape
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: .venv/.dev ## write the generated pages of docs/ anew: metrics, traces, openapi.json and reference/
	.venv/bin/python docs/reference.py

bench: .venv-bench/.bench ## measure beside other task systems; ARGS="--rounds 3 --json FILE", "--only NAME", "--help"
	@.venv-bench/bin/python -m tests.benchmarks $(ARGS)

baseline: .venv/.dev ## count the calls a task anew, on each supported Python that is here, and accept them
	.venv/bin/python -m tests.performance --write
	@set -e; for version in $(others); do $(MAKE) --no-print-directory baseline-$$version; done

baseline-%: .venv-%/.dev
	.venv-$*/bin/python -m tests.performance --write

soak: .venv/.dev ## run everything at once for 30 minutes and see that nothing grows; ARGS=60 for so many seconds
	.venv/bin/python -m tests.performance.soak $(ARGS)

dashboards: .venv/.dev ## write the Grafana dashboards, the rules and the page of the runbooks anew
	.venv/bin/python -m dashboards

lock: .venv/.dev ## write the lock files anew; ARGS=--upgrade takes the newest versions
	$(LOCK) $(ARGS) --group pip --output-file requirements-pip.lock
	$(LOCK) $(ALL) $(ARGS) --group build --output-file requirements.lock
	$(LOCK) $(ALL) $(ARGS) --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(LOCK) $(ALL) $(ARGS) --extra otlp-grpc --extra speed --resolution lowest-direct --output-file requirements-lowest.lock
	$(LOCK) $(ALL) $(ARGS) --group bench --constraint requirements-dev.lock --output-file tests/benchmarks/requirements.lock

clean: ## remove the environments and the caches
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find qorzen_obs tests dashboards -name __pycache__ -prune -exec rm -rf {} +

.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/pip
	$(call install,.venv,requirements.lock)
	@touch $@

.venv/.dev: requirements-dev.lock pyproject.toml | .venv/bin/pip
	$(call install,.venv,requirements-dev.lock)
	@touch $@ .venv/.runtime

.venv-bench/.bench: tests/benchmarks/requirements.lock pyproject.toml | .venv-bench/bin/pip
	$(call install,.venv-bench,tests/benchmarks/requirements.lock)
	@touch $@

# What tests import is as ever; then the lowest versions replace what the package itself imports.
.venv-lowest/.dev: requirements-dev.lock requirements-lowest.lock pyproject.toml | .venv-lowest/bin/pip
	$(call install,.venv-lowest,requirements-dev.lock)
	@.venv-lowest/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r requirements-lowest.lock
	@touch $@

.venv-%/.dev: requirements-dev.lock pyproject.toml | .venv-%/bin/pip
	$(call install,.venv-$*,requirements-dev.lock)
	@touch $@

.venv-bench/bin/pip: | .venv/bin/pip
	@.venv/bin/python -m venv --clear .venv-bench

.venv-lowest/bin/pip: | .venv/bin/pip
	@.venv/bin/python -m venv --clear .venv-lowest

.venv-%/bin/pip:
	@python=$$($(call numbered,$*)); \
	[ -n "$$python" ] || { echo "Python $* is not here, or cannot make virtual environments" >&2; exit 1; }; \
	"$$python" -m venv --clear .venv-$*

.venv/bin/pip:
	@python=$$($(call first,$(usual),$(recent))); \
	if [ -n "$$python" ]; then exec "$$python" -m venv --clear .venv; fi; \
	for python in $(usual); do \
		if "$$python" -c 'import sys; sys.exit(not ($(recent)))' 2>/dev/null; then \
			echo "$$python cannot make virtual environments. On Debian and Ubuntu this fixes it:" >&2; \
			"$$python" -c 'import sys; print("  apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2; \
			exit 1; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed. If you have one elsewhere: make PYTHON=/path/to/python3" >&2; exit 1

# Made by chained pattern rules, and kept.
.PRECIOUS: .venv-%/.dev .venv-%/bin/pip
