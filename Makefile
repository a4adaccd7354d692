# make demo: train on real digits, then look; make test, make lint: as CI does; make bench: speed beside others; make docs: docs/config.md; make lock: requirements.lock.
PY ?= $(shell command -v python3.11 || command -v python3)
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))

.PHONY: demo test lint format bench docs lock clean

demo: .venv/.installed
	OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc_per_node=2 main.py config/digits_propos.yml

test: .venv/.tested
	.venv/bin/python -m pytest -q -n 2 --dist loadfile

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.installed
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/step.py --repeats 4 --json build/bench/step.json
	.venv/bin/python benchmarks/epoch.py --repeats 2 --json build/bench/epoch.json
	.venv/bin/python benchmarks/scaling.py --repeats 2 --steps 10 --json build/bench/scaling.json
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py --json build/bench/memory.json

docs: .venv/.installed
	.venv/bin/python -m evaluation.linear_settings > docs/config.md

# torch stays out of the lock (requirements.txt pins it: one version, a CPU and a CUDA build), and so do its CUDA
# packages: the lock is resolved as for macOS, where torch has none
lock: .venv/.installed
	MACOSX_DEPLOYMENT_TARGET=15.0 .venv/bin/uv pip compile -q --upgrade --python-platform macos --no-header \
	    --no-emit-package torch requirements.in -o requirements.lock

.venv/.installed: requirements.txt requirements.lock
	$(PY) -m venv .venv
	.venv/bin/python -m pip install -q -c requirements.lock uv
	VIRTUAL_ENV=.venv .venv/bin/uv pip install -q $(FIND_LINKS) -r requirements.txt
	touch $@

# the CUDA kernels are tested without a GPU by Triton's interpreter; CPU builds of torch come without Triton
.venv/.tested: .venv/.installed
	.venv/bin/python -c "import triton" 2> /dev/null || VIRTUAL_ENV=.venv .venv/bin/uv pip install -q \
	    "triton==3.7.1; sys_platform == 'linux'"
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
