# Everything runs in .venv, which the first target that needs it makes; nothing has to be activated.

PYTHON ?= python3
MINUTES ?= 30
LAUNCHES ?= 200
EXAMPLES ?= 100000
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test e2e upstream oracle fuzz check bench bench-hosts chaos clean-launches scripts fmt golden-update dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.demo-installed ## launch two MPI ranks under Dragon and show where they are
	$(BIN)/rankmap launch -n 2 $(ONE_CORE) --report-bindings -- $(BIN)/python mpi_examples/hello_affinity.py

test: .venv/.dev-installed ## run the tests, those under the real Dragon runtime too
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal -m "not rig and not dragon"
	$(BIN)/pytest -m "dragon and not rig and not upstream"

e2e: .venv/.dev-installed ## run the tests on the emulated 4-NUMA machine and on fake hosts (root; installs qemu, sshd, 1.5 GB in ~/.cache)
	PYTHON=$(CURDIR)/$(BIN)/python tests/rig/numavm.sh build
	tests/rig/fakehosts.sh build
	RANKMAP_REQUIRE_RIG=1 $(BIN)/pytest -m rig

upstream: .venv/.dev-installed ## show that Dragon still has the faults that rankmap works around (2 minutes; after a new version of it)
	$(BIN)/pytest -m upstream

oracle: .venv/.dev-installed ## compare thousands of plans with those of Open MPI and MPICH (4 minutes, mpich in ~/.cache)
	test -d ~/.cache/rankmap/mpich || $(BIN)/pip install -q --no-deps --target ~/.cache/rankmap/mpich mpich==5.0.2
	$(BIN)/python -m tests.oracle.full

fuzz: .venv/.dev-installed ## give rankmap 100,000 random options and files: a plan or a clear refusal, never a traceback (EXAMPLES=N)
	RANKMAP_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/property/test_requests.py -q

check: .venv/.dev-installed ## lint, format, types, direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(shell command -v shellcheck),shellcheck -x .ci/run tests/rig/*.sh tests/rig/pbs/bin/* tests/rig/pbs/pals/bin/* scripts/*.pbs scripts/*.sbatch,@echo "shellcheck is not installed: shell scripts not checked")

bench: .venv/.dev-installed ## measure against mpirun and bare Dragon
	$(MAKE) -C mpi_examples
	$(BIN)/python scripts/bench.py

bench-hosts: .venv/.dev-installed ## measure on two fake hosts against mpirun over ssh and bare Dragon (root)
	$(MAKE) -C mpi_examples
	$(BIN)/python scripts/bench_hosts.py

chaos: .venv/.dev-installed ## play faults at random for MINUTES (30), and check that each job ends as it has to
	$(BIN)/python scripts/chaos.py --minutes $(MINUTES)

clean-launches: .venv/.dev-installed ## launch LAUNCHES (200) correct jobs, and check that nothing is found in any of them
	$(BIN)/python scripts/clean_launches.py --launches $(LAUNCHES)

scripts: .venv/.dev-installed ## write the ready batch scripts of scripts/ (Polaris, Aurora, Frontier, Perlmutter) again
	$(BIN)/python scripts/submit_scripts.py

fmt: .venv/.dev-installed ## format, and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

golden-update: .venv/.dev-installed ## rewrite the expected texts of tests/golden; review the diff
	$(BIN)/pytest tests/golden --update-golden

dist: .venv/.dev-installed ## build the wheel and the source archive into dist/
	$(BIN)/pip install -q build
	$(BIN)/python -m build

clean: ## remove what was built; .venv stays
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find rankmap tests mpi_examples -name __pycache__ -prune -exec rm -rf {} +
	$(MAKE) -C mpi_examples clean

# what pip does for installed packages; where PYTHONDONTWRITEBYTECODE is set each start would compile anew
COMPILE = $(BIN)/python -m compileall -q rankmap

# two ranks fit on two cores; rankmap itself knows whether there are two
ONE_CORE = $(shell $(BIN)/rankmap plan -n 2 >/dev/null 2>&1 || echo --oversubscribe)

.venv/.demo-installed: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -q -e '.[mpi]'
	$(COMPILE)
	@touch $@

.venv/.dev-installed: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install -q -e '.[mpi,dev]'
	$(COMPILE)
	@touch .venv/.demo-installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "rankmap needs Python 3.11, 3.12 or 3.13 (what dragonhpc has wheels for); $(PYTHON) is" \
	    "`$(PYTHON) -V 2>&1 || true`. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
