# `make demo` and `make test` do all the set-up themselves; a second call finds it done.
.PHONY: setup setup-dev demo test test-long check bench clean
export PYTHON
# Each of the many processes that tests start would else compile all that it imports.
export PYTHONDONTWRITEBYTECODE =

setup:
	@scripts/setup.sh all,test

setup-dev:
	@scripts/setup.sh all,test,dev

demo: setup
	@scripts/demo.sh

# Where tests lie that measure how late the window answers: looking for them takes long.
ALONE = tests/napari/test_responsiveness.py

# One thread each: PyTorch's own would get in each other's way. Three processes on two cores: tests of
# the window wait now and then.
test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 3 --dist worksteal -m "not long and not alone"
	.venv/bin/python -m pytest -m alone $(ALONE)

test-long: setup
	.venv/bin/python -m pytest -m long

check: setup-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	scripts/check_wheel.sh

bench:
	@scripts/setup.sh all,test,bench
	@for script in $(wildcard benchmarks/[!_]*.py); do .venv/bin/python "$$script" || exit 1; done

# Leaves .venv: to start over, remove that too.
clean:
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
