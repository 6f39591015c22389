# Everything happens in .venv; each target sets it up first when it is missing or out of date.
#   make setup PYTHON=python3.12                                      choose the interpreter
#   make setup TORCH_INDEX=URL                                        PyTorch's own index of CPU builds, to spare the CUDA packages

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

export ORT_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint lock bench docs clean

help:
	@echo "make setup   create .venv and install everything that works on a CPU"
	@echo "make demo    run the whole chain on the sample clips, into cases/demo"
	@echo "make test    run the tests that every change needs"
	@echo "make test-all   run the slow ones, too: training, kills, faults, whole commands"
	@echo "make lint    run ruff, import-linter and mypy, and check for known vulnerabilities (needs the network)"
	@echo "make lock    write constraints.lock: the pins, with hashes from the package index"
	@echo "make bench   run every benchmark, into docs/results"
	@echo "make docs    build the documentation as a site, into build/site"
	@echo "make clean   remove caches, build output and cases/demo"

setup: $(READY)

# $(call apt,PACKAGES): install Debian packages when we may, otherwise fail.
apt = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) >/dev/null; else false; fi

$(READY): pyproject.toml constraints.lock
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
		for python in $(PYTHON) python3.13 python3.12 python3.11 none; do \
			if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
		done; \
		if [ "$$python" = none ]; then \
			echo "setup: no Python 3.11 or newer found; install one, or run: make setup PYTHON=/path/to/python" >&2; exit 1; \
		fi; \
		echo "setup: .venv from $$("$$python" --version)"; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "setup: Python's venv module is not complete: apt-get install python3-venv" >&2; \
			$(call apt,python3-venv) || { echo "setup: run that as root, then make again" >&2; exit 1; }; \
		fi; \
		"$$python" -m venv .venv || { rm -rf .venv; exit 1; }; \
	fi
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "setup: .venv has no pip; remove the folder and run make again" >&2; exit 1; fi
	@echo "setup: installing torch (minutes)"
	@mkdir -p build
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --dry-run --ignore-installed --no-deps \
		--report build/torch.json -c constraints.txt torch
	@$(BIN)/python scripts/torch_file.py $(if $(TORCH_INDEX),--any) build/torch.json > build/torch.lock
	@$(PIP) --require-hashes --no-deps -r build/torch.lock
	@echo "setup: installing the rest, each file by its hash (minutes)"
	@grep '^setuptools==' constraints.lock > build/builder.lock
	@$(PIP) --require-hashes --no-deps -r build/builder.lock
	@$(PIP) --require-hashes --no-deps --no-build-isolation -r constraints.lock
	@$(PIP) -c constraints.txt --no-build-isolation -e '.[cpu,custody,c2pa,fast,insightface,dlib,report,serve,dist,dev,docs]'
	@set -e; \
	if ! $(BIN)/python -c 'import cv2' 2>/dev/null; then \
		echo "setup: OpenCV needs system libraries: apt-get install -y libgl1 libglib2.0-0" >&2; \
		$(call apt,libgl1 libglib2.0-0) || { echo "setup: run that as root, then make again" >&2; exit 1; }; \
		$(BIN)/python -c 'import cv2'; \
	fi; \
	if ! $(BIN)/python -c 'import weasyprint' >/dev/null 2>&1; then \
		pango="libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"; \
		$(call apt,$$pango) && $(BIN)/python -c 'import weasyprint' || \
			echo "setup: no PDF reports until these are installed: apt-get install -y $$pango" >&2; \
	fi
	@command -v chromium >/dev/null || { $(call apt,chromium); } || \
		echo "setup: the tests of pages need a browser: apt-get install -y chromium" >&2
	@touch $(READY)
	@echo "setup: ready"

demo: $(READY)
	$(BIN)/fasr-video run sample_videos/*.mp4 --gallery sample_videos/mugshots --out cases/demo
	$(BIN)/fasr-video show cases/demo

# Two workers with one thread each: more threads than cores make every test slower.
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: $(READY)
	$(BIN)/python -m pytest -n 2 --timeout 120 -m "not slow"

# The rest: training, kills and resumes, faults, whole commands. `test-all` runs both.
test-slow: export OMP_NUM_THREADS = 1
test-slow: export OPENBLAS_NUM_THREADS = 1
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --timeout 300 -m slow

test-all: test test-slow

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.toml
	$(BIN)/python scripts/audit.py

lock: $(READY)
	mkdir -p build
	$(PIP) --dry-run --ignore-installed --no-deps --report build/lock.json -c constraints.txt torch
	$(BIN)/python scripts/lock.py build/lock.json > build/constraints.lock
	mv build/constraints.lock constraints.lock

bench: $(READY)
	@set -e; for script in benchmarks/[a-z]*.py; do \
		grep -qs '__main__' "$$script" || continue; \
		echo "bench: $$script"; $(BIN)/python "$$script" || echo "bench: $$script gave no result"; \
	done

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis cases/demo
	find fasr_video tests benchmarks scripts sample_videos -name __pycache__ -type d -prune -exec rm -rf {} +
