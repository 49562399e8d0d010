# `make demo` and `make test` also do the set-up; a second call skips it.
.PHONY: setup setup-dev demo test test-long check bench clean
export PYTHON
# Otherwise each of the many processes that tests start would compile all its imports again.
export PYTHONDONTWRITEBYTECODE =

setup:
	@scripts/setup.sh all,test

setup-dev:
	@scripts/setup.sh all,test,dev

demo: setup
	@scripts/demo.sh

# The tests that measure the window's response time. Named here, because collecting all tests takes long.
ALONE = tests/napari/test_responsiveness.py

# One thread each: the threads of several PyTorch processes would compete for the cores. Three processes on
# two cores, because tests of the window sometimes wait.
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

# .venv stays. To start over, remove it too.
clean:
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
