# Everything runs in .venv, which the first command makes: `make demo`, `make test`.
# The first Python on the path that is new enough; `make PYTHON=python3.12` names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN = .venv/bin
export RAY_USAGE_STATS_ENABLED = 0
# The suites start hundreds of processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow chaos bench gpu overhead planning megapixels fuzz zoo docs lint install clean

demo: .venv/demo.stamp  ## the main job on the shipped photographs, into out/demo
	$(BIN)/batch-nst nightly jobs/recipes/demo.yaml

test: .venv/test.stamp lint  ## the fast suite; on two cores three at a time, as each waits for what it starts
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-slow: .venv/test.stamp  ## real clusters, crashes and whole runs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not chaos" $(PYTEST)

chaos: .venv/test.stamp  ## crashes and faults at every point, with and without Ray
	$(BIN)/python -m pytest -m chaos -s

bench: .venv/test.stamp  ## how fast the engine, training and painting are; fails where one fell back
	$(BIN)/batch-nst benchmark --quick

gpu: .venv/test.stamp  ## on a GPU: the same losses, gradients and steps as on a CPU; then the benchmark
	$(BIN)/python -m pytest -m cuda tests/engine tests/pipelines
	$(BIN)/batch-nst benchmark --device cuda

overhead planning: export PYTHONPATH = $(CURDIR)

overhead: .venv/test.stamp  ## what the pipeline costs beside devices that only sleep
	$(BIN)/python tests/benchmarks/overhead.py

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/check_wording.py

planning: .venv/test.stamp  ## what planning 10 million photos costs
	$(BIN)/python tests/benchmarks/planning.py

megapixels: .venv/test.stamp  ## what painting a picture of 40 megapixels takes of memory
	MEGAPIXELS=40 $(BIN)/python -m pytest tests/pipelines/apply/test_apply.py -k megapixel -m slow -s

fuzz: .venv/test.stamp  ## the property tests with 2,000 new inputs each; EXAMPLES=50000 for more
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/properties -s

zoo: .venv/demo.stamp  ## the models of the zoo again, in hours; PHOTOS=FOLDER holds a thousand photos
	$(BIN)/python jobs/zoo.py --photos $(or $(PHOTOS),photos)

docs: .venv/test.stamp  ## the pages as a site with search, in out/site; fails at a dead link
	$(BIN)/mkdocs build --config-file .mkdocs.yml

install: .venv/demo.stamp

.venv/demo.stamp: pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'make: needs Python 3.11 or newer; name one: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv out
