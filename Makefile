# Daily commands. Each first sets up .venv if it is missing or out of date; otherwise that takes no time.
#   make run ACCELERATOR=cpu    installs the CPU requirements (default: what the machine has)
#   make run PYTHON=python3.12  creates .venv with this interpreter

ACCELERATOR ?= auto
PYTHON ?= python3
VENV := .venv/bin

# Images for containers often set this. Then Python compiles every file that it imports, in each process of Ray again,
# and importing torch or vLLM takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run mbpp test test-fast test-long lint bench gpu docs chaos leaks soak ablation submit setup

# vLLM's GPU build does not run on a CPU. With it, the generator and the learner share a GPU.
SHARED_GPU = $$(grep -q '^vllm==' .venv/.requirements && echo --generator.num_gpus 0.5 --learner.num_gpus 0.5)

run: setup
	$(VENV)/python launch.py $(SHARED_GPU)

# A pretrained model learns on MBPP, and is measured before and after; docs/quick-start.md lists the variables. Takes
# hours; if it is interrupted, the same command continues.
mbpp: setup
	$(VENV)/python -m scripts.mbpp $(if $(MODEL),--model '$(MODEL)') $(if $(MBPP),--mbpp '$(MBPP)') \
		$(if $(HUMANEVAL),--humaneval '$(HUMANEVAL)') $(if $(FOLDER),--folder '$(FOLDER)') \
		$(if $(LIMIT),--limit '$(LIMIT)') $(if $(SEEDS),--seeds $(SEEDS)) $(if $(CONTROL),--control) \
		$(SHARED_GPU) $(ARGS)

# Two processes; tests/conftest.py says which tests stay together.
WORKERS := -n 2 --dist loadgroup --no-loadscope-reorder

test: setup
	$(VENV)/python -m pytest $(WORKERS)

# Without Ray, vLLM, the large families of cases and what takes longer than half a second: while you work on something.
test-fast: setup
	$(VENV)/python -m pytest $(WORKERS) -m "not ray and not slow and not long" --hypothesis-profile few --durations 10

test-long: setup
	$(VENV)/python -m pytest -m long --timeout 1800
	$(VENV)/python -m pytest $(WORKERS) -m "hypothesis and not ray and not long" --hypothesis-profile many

lint: setup
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo

bench: setup
	@for benchmark in benchmarks/bench_*.py; do PYTHONPATH=. $(VENV)/python $$benchmark || exit 1; done

# What only a GPU shows, in 15 minutes on one H200: runs/gpu/results.md.
gpu: setup
	PYTHONPATH=. $(VENV)/python -m benchmarks.gpu

docs: setup
	$(VENV)/python -m scripts.settings_page
	$(VENV)/python -m mkdocs build --strict
	@echo "site/index.html"

chaos: setup
	$(VENV)/python -m benchmarks.chaos

leaks: setup
	$(VENV)/python -m benchmarks.leaks

soak: setup
	$(VENV)/python -m tests.sandbox.soak
	$(VENV)/python -m tests.serving.fuzz

ablation: setup
	$(VENV)/python -m benchmarks.ablation $(if $(ROWS),--rows $(ROWS)) $(if $(SEEDS),--seeds $(SEEDS))
	$(VENV)/python -m scripts.ablation_tables runs/ablation --output docs/images/ablation.png

# Submits the job to a cluster: make submit ADDRESS=http://localhost:8265 ARGS='--config configs/mbpp.yaml'
ADDRESS ?= http://localhost:8265
submit: setup
	$(VENV)/python launch.py $(ARGS) --cluster.address $(ADDRESS)

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh $(ACCELERATOR)
