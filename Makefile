# make demo | demo-ui | test | lint | docs | gpu-check | fuzz | audit | lock. Each sets up what it needs in .venv; a second call installs nothing.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ACCELERATOR ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; else echo cpu; fi)
BIN := .venv/bin
UV := $(BIN)/uv
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --no-deps
# A package without a wheel is built by what requirements/build.txt pins, and by nothing else.
BUILD := --preview-features build-dependency-hashes --require-build-hashes --build-constraints requirements/build.txt
PINS := $(patsubst %,requirements/%.txt,uv build $(ACCELERATOR) dev sam2)
# Tests run in two processes; WORKERS=0 runs one test after the other, in half the memory.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)
# One thread a process: several processes share the cores, and oversubscribed cores are many times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Or pytest would rewrite the assertions of every test file anew in every process, seven seconds each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo demo-ui test test-quick test-slow test-training browser lint docs format fuzz audit lock clean

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
	@$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r requirements/uv.txt
	@$(INSTALL) --require-hashes $(BUILD) --compile-bytecode -r requirements/$(ACCELERATOR).txt -r requirements/dev.txt
	@SAM2_BUILD_CUDA=0 $(INSTALL) --require-hashes --no-build-isolation -r requirements/sam2.txt
	@$(INSTALL) --offline --no-build-isolation -e .

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
	@$(PYTEST) --dist loadfile -m "not slow and not training and not gpu"

test-slow: setup browser
	@$(PYTEST) --dist loadfile -m "slow and not gpu and not alone"
	@$(PYTEST) -n 0 -m "alone and not gpu"

# The page is tested in a browser of the system's own.
browser:
	@for name in chromium-headless-shell chromium google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	echo "the page's tests need Chromium: install chromium or Debian's chromium-headless-shell" >&2; exit 2; fi; \
	echo "installing Debian's headless Chromium"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null

test-training: setup
	@$(PYTEST) --dist loadgroup -m "training and not gpu"

# What only a GPU can show, in ten minutes and one block to paste: docs/install.md, "Prove it on your GPU".
.PHONY: gpu-check
gpu-check: setup
	@$(BIN)/python -m benchmarks.gpu_check $(if $(DEVICE),--device $(DEVICE)) --only "$(ONLY)" --policy "$(POLICY)" --segmenter "$(SEGMENTER)"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(MAKE) --no-print-directory docs

# The documentation as a site in site/. It is built without the internet; a link that leads nowhere is an error.
docs: setup
	@if ! out=$$(NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict 2>&1); then printf '%s\n' "$$out" >&2; exit 1; fi
	@echo "documentation: site/index.html"

format: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

fuzz: setup
	@FUZZ_EXAMPLES=1000000 $(BIN)/python -m pytest tests/test_answer_fuzz.py

# The pins against PyPI's list of known vulnerabilities. It asks over the internet, so neither tests nor CI run it.
audit: .venv-audit/.installed
	@code=0; for lock in $(filter-out %/overrides.txt,$(wildcard requirements/*.txt)); do \
	if found=$$(.venv-audit/bin/pip-audit --strict --disable-pip --progress-spinner off -r $$lock 2>.venv-audit/log); then \
	echo "$$lock: no known vulnerabilities"; \
	elif [ -n "$$found" ]; then printf '%s:\n%s\n' "$$lock" "$$found"; code=1; \
	else echo "make audit needs the internet: PyPI's list of vulnerabilities gave no answer about $$lock (see .venv-audit/log)" >&2; exit 2; fi; \
	done; exit $$code

.venv-audit/.installed: requirements/audit.txt
	@rm -rf .venv-audit && $(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r $< 2>.venv-audit/log || \
	{ echo "make audit needs the internet: pip-audit could not be installed (see .venv-audit/log)" >&2; exit 2; }
	@touch $@

# The pins and the hashes of their files, from setup.py's ranges. Review the diff, then run every test.
lock: setup
	@compile="$(UV) pip compile --quiet --python $(BIN)/python --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links"; \
	$$compile setup.py -o requirements/base.txt && \
	$$compile setup.py --extra infer --extra train-cpu --extra serve --override requirements/overrides.txt -o requirements/cpu.txt && \
	$$compile setup.py --extra infer --extra train --extra serve --override requirements/overrides.txt -o requirements/cuda.txt && \
	$$compile setup.py --extra dev -c requirements/cpu.txt -o requirements/dev.txt && \
	$$compile --no-deps requirements/sam2.in -o requirements/sam2.txt && \
	echo setuptools | $$compile -c requirements/cpu.txt - -o requirements/build.txt && \
	echo uv | $$compile - -o requirements/uv.txt && \
	echo pip-audit | $$compile -c requirements/cpu.txt -c requirements/dev.txt - -o requirements/audit.txt

clean:
	rm -rf .venv .venv-audit demo build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
