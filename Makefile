# Every target makes its own environment: Python 3.11+ and pip are all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo check format test test-full test-gpu drills bench image-steps clean

$(STAMP): pyproject.toml cluster/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint cluster/constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/fattr demo --output demo-output

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Those on Ray one after another: its processes give way to all others, and would wait for ever.
test: $(STAMP)
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal -m 'not ray and not full and not gpu and not drills'
	$(BIN)/python -m pytest -q --durations=10 -m 'ray and not full and not gpu and not drills'

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu

# From Debian's packages: a browser to look at pages with, strace to see where a run connects to, and
# iproute2 for hosts of their own on this machine.
test-full: $(STAMP)
	{ command -v chromedriver && command -v strace && command -v ip; } > /dev/null || \
		{ apt-get update -qq && apt-get install -qq -y chromium chromium-driver strace iproute2; } > /dev/null
	$(BIN)/python -m pytest -q --durations=10 --numprocesses auto --dist worksteal -m 'full and not ray and not gpu and not drills'
	$(BIN)/python -m pytest -q --durations=40 -m 'full and ray and not gpu and not drills'

# What takes too long for every change: all architectures, kills, searches, elastic training.
drills: $(STAMP)
	$(BIN)/python -m pytest -q --durations=10 -m drills

# DATA=DIR: photographs to take faces from, as benchmarks/annotate says; drawn ones without.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.annotate $(if $(DATA),--data $(DATA))

# What cluster/Dockerfile installs, without Docker; downloads all of it. TORCH_INDEX=URL: other torch.
image-steps:
	PYTHON="$(PYTHON)" cluster/image_steps.sh

clean:
	rm -rf $(VENV) demo-output
