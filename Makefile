# make demo | demo-ui | test | lint | gpu-check | fuzz | lock. Each sets up what it needs in .venv; a second call installs nothing.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ACCELERATOR ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; else echo cpu; fi)
BIN := .venv/bin
UV := $(BIN)/uv
PINS := requirements/$(ACCELERATOR).txt requirements/dev.txt requirements/sam2.txt
# One thread a process: several processes share the cores, and oversubscribed cores are many times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo demo-ui test test-quick test-slow test-training browser lint format fuzz lock clean

setup:
	@want="$$(cat $(PINS) setup.py Makefile | sha256sum | cut -c1-16)-$(ACCELERATOR)"; \
	if [ "$$(cat .venv/.installed 2>/dev/null)" != "$$want" ]; then $(MAKE) --no-print-directory install && echo "$$want" > .venv/.installed; fi

.PHONY: install
install:
	@case "$(ACCELERATOR)" in cpu|cuda) ;; *) echo "ACCELERATOR=$(ACCELERATOR): use cpu or cuda" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "SegZero's pins are for Python 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(MAKE) --no-print-directory driver
	@echo "setting up .venv for $(ACCELERATOR) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(UV) || $(BIN)/python -m pip install --quiet uv==0.13.8
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/$(ACCELERATOR).txt -r requirements/dev.txt
	@SAM2_BUILD_CUDA=0 $(UV) pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -r requirements/sam2.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .

.PHONY: driver
driver:
	@if [ "$(ACCELERATOR)" = cuda ]; then driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1); \
	if [ "$${driver%%.*}" -lt 580 ] 2>/dev/null; then \
	echo "NVIDIA driver $$driver is older than 580, which CUDA 13 needs: PyTorch will see no GPU until it is updated" >&2; fi; fi

demo: setup
	@rm -rf demo
	@$(BIN)/segzero demo --out demo

demo-ui: setup
	@$(BIN)/segzero demo-ui

test: test-quick test-slow test-training

test-quick: setup
	@$(BIN)/python -m pytest -m "not slow and not training and not gpu"

test-slow: setup browser
	@$(BIN)/python -m pytest -m "slow and not gpu"

# The page is tested in a browser of the system's own.
browser:
	@for name in chromium-headless-shell chromium google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	echo "the page's tests need Chromium: install chromium or Debian's chromium-headless-shell" >&2; exit 2; fi; \
	echo "installing Debian's headless Chromium"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null

test-training: setup
	@$(BIN)/python -m pytest -m "training and not gpu"

# What only a GPU can show, in ten minutes and one block to paste: docs/install.md, "Prove it on your GPU".
.PHONY: gpu-check
gpu-check: setup
	@$(BIN)/python -m benchmarks.gpu_check $(if $(DEVICE),--device $(DEVICE)) --only "$(ONLY)" --policy "$(POLICY)" --segmenter "$(SEGMENTER)"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

fuzz: setup
	@FUZZ_EXAMPLES=1000000 $(BIN)/python -m pytest tests/test_answer_fuzz.py

# The pins, from setup.py's ranges. Review the diff, then run every test.
lock: setup
	@compile="$(UV) pip compile --quiet --python $(BIN)/python --no-header --no-annotate --no-emit-index-url --no-emit-find-links setup.py"; \
	$$compile -o requirements/base.txt && \
	$$compile --extra infer --extra train-cpu --extra serve --override requirements/overrides.txt -o requirements/cpu.txt && \
	$$compile --extra infer --extra train --extra serve --override requirements/overrides.txt -o requirements/cuda.txt && \
	$$compile --extra dev -c requirements/cpu.txt -o requirements/dev.txt

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
