# Every target makes .venv and installs by itself when that is missing or older than the files that describe it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_RUN ?= checkpoints/demo
TEST_WORKERS ?= 2

.PHONY: demo test check docs faults bench gpu-wheels reproduce-quick evidence package test-floor test-tl clean

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $@

demo: $(STAMP)
	$(BIN)/grokinterp demo --run $(DEMO_RUN)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# Tests compute on one thread each; a file's tests stay together, since they share what was trained for them.
test: check
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

# Runs killed a hundred times, every write that fails, thousands of broken files, 5,000 checkpoints: docs/trust.md.
faults: $(STAMP)
	$(BIN)/python -m pytest tests/faults -m "slow or not slow" -n $(TEST_WORKERS) --durations=0 --durations-min=10

# The site in build/docs/html: a dead link, an undocumented public name, or an example that fails ends the build.
docs: $(STAMP)
	$(BIN)/python -m pytest -m docs
	$(BIN)/python -m sphinx -b html --jobs $(TEST_WORKERS) --fail-on-warning --keep-going -d build/docs/doctrees docs build/docs/html

# The quick form of every published experiment; what has results already is left alone, so it can be stopped at will.
reproduce-quick: $(STAMP)
	$(BIN)/grokinterp reproduce --all --quick

# The runs of published size that have no record, cheapest decision first, one per core, at the lowest priority. Each adds
# its record as soon as it has ended, so it can be stopped at will; with HOURS=2, only runs that fit into two hours start.
evidence: $(STAMP)
	nice -n 19 $(BIN)/grokinterp reproduce --missing $(if $(HOURS),--hours $(HOURS))

bench: $(STAMP)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.document

# What `python -m benchmarks.gpu` needs on a machine that has no more than torch, numpy, pandas and safetensors.
GPU_PYTHONS := 3.11 3.12 3.13
GPU_DOWNLOAD = $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	-c constraints.txt -d build/gpu-wheels
gpu-wheels: $(STAMP)
	$(GPU_DOWNLOAD) jaxtyping wadler-lindig einops psutil pydantic annotated-types typing-inspection typing-extensions tqdm
	$(foreach version,$(GPU_PYTHONS),$(GPU_DOWNLOAD) --python-version $(version) pydantic-core &&) true

# By hand, before a release: the wheel and the sdist, and the README's quick start with only the wheel.
package:
	$(PYTHON) tests/packaging/check.py --constraints constraints.txt --keep dist

# By hand, before a release: the tests with the lowest versions that pyproject.toml allows, and with each Python, as in
# `make test-floor FLOOR_PYTHON=python3.13 FLOOR=highest`.
FLOOR_PYTHON ?= python3.11
FLOOR ?= lowest-direct
FLOOR_TESTS ?= tests
test-floor:
	$(FLOOR_PYTHON) -m venv --clear .venv-floor
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-floor/bin/uv pip install --quiet --python .venv-floor/bin/python --resolution $(FLOOR) -e ".[dev]"
	.venv-floor/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(FLOOR_TESTS)

TL_TESTS = $(wildcard tests/test_importing*.py) $(addprefix tests/test_,transformer_lens.py exporting.py run.py forward_paths.py)
# What touches TransformerLens, under the version in constraints.txt and under the newest version 4.
test-tl: $(STAMP)
	$(PYTHON) -m venv .venv-tl4
	grep -v '^transformer-lens==' constraints.txt > .venv-tl4/constraints.txt
	.venv-tl4/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-tl4/constraints.txt -e ".[dev]" "transformer-lens>=4,<5"
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TL_TESTS)
	.venv-tl4/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TL_TESTS)

clean:
	rm -rf $(VENV) .venv-floor .venv-tl4 .pytest_cache .ruff_cache build dist docs/reference docs/gallery docs/tutorials/*.ipynb
