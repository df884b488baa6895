#!/usr/bin/env bash
# Sets up and runs the style check, the type check, the build of the documentation and all tests. Arguments go to pytest: bash scripts/test.sh -k evograd
# Needs: nothing beyond setup.sh. Takes: a few minutes on two cores.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
cd "$root"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet
# One thread in each of up to four processes is faster than four threads in one.
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n auto --maxprocesses 4 "$@"
