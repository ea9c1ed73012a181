# Every target makes its own environment in .venv and installs what it needs; nothing else is typed first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# Nothing below needs the Hub; tests and demos must not wait for it.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
# `make test COVERAGE=1` measures line coverage, which takes half as long again: Python's tracing slows every call.
COVERAGE :=
COVER = $(if $(COVERAGE),--cov --cov-report=term --cov-fail-under=$(1))
# One more than cores: tests wait for servers, for browsers and for processes that they end.
WORKERS := $(shell echo $$(($$(nproc 2>/dev/null || sysctl -n hw.ncpu) + 1)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-video demo-web demo-build bench bench-construction fetch-env open-clip-env vllm-env test test-fast test-again test-lowest torture lint format docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

# A stamp for each set of extras, so that a target installs no more than it uses.
$(VENV)/.installed-%: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo  ## draw a data set, train, evaluate, index and search it: about 12 minutes on two cores, and the installation
	$(OFFLINE) $(BIN)/python examples/quickstart.py --output runs/demo

demo-video: $(VENV)/.installed-demo  ## index the pedestrians of a video (VIDEO=path, or Debian's vtest.avi) and search them
	@test -f runs/demo/model/config.json || $(MAKE) demo
	$(OFFLINE) $(BIN)/python examples/demo_video.py --model runs/demo/model $(if $(VIDEO),--video '$(VIDEO)')

demo-web: $(VENV)/.installed-web  ## search the pedestrians of a video (VIDEO=path, or vtest.avi) in the browser
	@test -f runs/demo/model/config.json || $(MAKE) demo
	$(OFFLINE) $(BIN)/python examples/demo.py --model runs/demo/model $(if $(VIDEO),--video '$(VIDEO)',--vtest)

demo-build: $(VENV)/.installed-demo-build  ## build a data set of persons from the pedestrian video and photographs
	$(OFFLINE) $(BIN)/python examples/build_webperson.py

# img2dataset and what it pins live apart: it wants another pandas.
.venv-fetch/.installed: constraints-fetch.txt
	$(PYTHON) -m venv .venv-fetch
	.venv-fetch/bin/python -m pip install --disable-pip-version-check --quiet --requirement constraints-fetch.txt
	@touch $@

# open_clip needs torchvision, which changes what transformers does wherever it is installed. Without dependencies: the
# others are those of $(VENV).
.venv-open-clip/.installed: constraints-open-clip.txt | $(BIN)/python
	$(PIP) install --quiet --no-deps --upgrade --target .venv-open-clip --requirement constraints-open-clip.txt
	@touch $@

bench: $(VENV)/.installed-benchmark  ## the benchmarks in small, against the committed ratios: 11 minutes on two idle cores
	$(OFFLINE) $(BIN)/python -m benchmarks.bench

bench-construction: $(VENV)/.installed-benchmark  ## speed and memory of building a data set: about 18 minutes
	$(OFFLINE) $(BIN)/python -m benchmarks.construction.run

open-clip-env: .venv-open-clip/.installed  ## open_clip, beside the environment of the tests

fetch-env: .venv-fetch/.installed  ## the environment of img2dataset, which fetches tables of URLs

# vLLM wants other versions of torch and transformers.
.venv-vllm/.installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check --quiet "vllm>=0.33"
	@touch $@

vllm-env: .venv-vllm/.installed  ## the environment of vLLM, for captioners of kind vllm: needs a GPU

# The browser that tests look at the web demo with.
$(VENV)/.chromium: | $(BIN)/python
	command -v chromium >/dev/null || { apt-get update && apt-get install --yes --no-install-recommends chromium; } \
		|| echo "Chromium cannot be installed here: the tests of the web demo will be skipped"
	@touch $@

# By file: what takes a file minutes to prepare is prepared once. In their order: files of few tests are the slowest here,
# and would be left for one process at the end.
test: $(VENV)/.installed-test $(VENV)/.chromium .venv-fetch/.installed .venv-open-clip/.installed  ## all tests: about 20 minutes on two idle cores (COVERAGE=1: with line coverage)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not torture' -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(call COVER,90)

# What a change breaks most often, without servers, browsers, trainings and Ray.
test-fast: $(VENV)/.installed-test  ## the fast tests: at most 3 minutes on two idle cores (COVERAGE=1: with line coverage)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not torture and not slow' -n $(WORKERS) --dist worksteal \
		$(call COVER,75)

test-again: $(VENV)/.installed-test $(VENV)/.chromium .venv-fetch/.installed .venv-open-clip/.installed  ## the tests that failed last, one at a time
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-lowest: $(VENV)/.chromium .venv-fetch/.installed .venv-open-clip/.installed | $(BIN)/python  ## all tests with the lowest versions that setup.cfg allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	$(OFFLINE) OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m 'not torture' -n $(WORKERS) --dist loadfile --no-loadscope-reorder

torture: $(VENV)/.installed-test $(VENV)/.chromium .venv-fetch/.installed  ## long fault matrices and soaks
	$(OFFLINE) $(BIN)/python -m pytest -m torture -n auto

lint: $(VENV)/.installed-dev  ## ruff, type checker, and the model linter of transformers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# The linter's rules on transformers' own licence header and generated docstrings are not for other projects.
	sed -E '/^\[rules\.TRF(028|057)\]/,/^default_enabled/ s/^(default_enabled) = true/\1 = false/' \
		"$$($(BIN)/python -c 'import mlinter, pathlib; print(pathlib.Path(mlinter.__file__).with_name("rules.toml"))')" \
		> $(VENV)/mlinter-rules.toml
	$(BIN)/mlinter --no-progress --no-cache --rules-toml $(VENV)/mlinter-rules.toml modeling_gadms

format: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## build the documentation into site/, and list the commands in it that no test runs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python tests/docs/list_not_run.py

clean:  ## remove what runs wrote, keep the environment
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .coverage*
