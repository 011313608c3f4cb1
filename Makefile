# `make run` and `make test` each do all the set-up they need, in .venv through uv, once.
PYTHON ?= python3
PROFILE ?= tiny
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
# A process a core takes a file at a time, in the order of tests/conftest.py: the longest first.
TESTS := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help install run release reference check test lab lint bench docs clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

install: $(READY)  ## everything into .venv (about 8 GB), the hands and the nets that find them into the user's cache

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	$(BIN)/python -c "from ethand_utils.hands.rigs import RIGS, load_rig; [load_rig(name) for name in RIGS]"
	$(BIN)/python -c "from ethand_utils.analysis.hand_finder import NETS, net_file; [net_file(name) for name in NETS]"
	$(BIN)/python -c "from ethand_utils.training.photo_graph import released_graph; released_graph()"
	touch $@

run: $(READY)  ## every notebook of a profile: make run, make run PROFILE=small
	$(BIN)/ethand run $(PROFILE)

release: $(READY)  ## train the net of the package again, and put it there
	$(BIN)/ethand run release
	mkdir -p ethand_utils/training/released
	cp outputs/release/release/weights.safetensors ethand_utils/training/released/hands.safetensors

reference: $(READY)  ## results of a finished run for git, into outputs/reference: make reference RUN=tiny
	$(BIN)/ethand reference $(or $(RUN),tiny)

check: lint  ## style and unit tests, before each commit
	$(TESTS) -m "not slow"

test: $(READY)  ## the whole test suite
	$(TESTS)

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_data.ipynb

lint: $(READY)  ## style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)  ## speed of this machine, beside plain reference code
	$(BIN)/python -m benchmarks

docs: $(DOCS_READY)  ## the site into build/docs; make docs RUN=tiny shows the notebooks as that run executed them
	$(BIN)/python docs/build.py $(if $(RUN),--run $(RUN))

$(DOCS_READY): docs/requirements.lock $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r docs/requirements.lock
	touch $@

clean:  ## remove what runs and make docs made; .venv and outputs/reference stay
	if [ -d outputs ]; then find outputs -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +; fi
	rm -rf build/docs .pytest_cache .ruff_cache
