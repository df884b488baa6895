#!/usr/bin/env bash
# What hypergradients cost: time and peak memory of a training step by method, as in the paper's
# Figures 3 to 6, and more. On synthetic tensors: needs no data. --size small takes under 10 minutes
# on two CPU cores; --size paper (all shapes of the paper, all methods) is for a GPU; what does not
# fit into memory is recorded as such. Ends by naming the report.
# Kill it at any time; the same command goes on. Nothing else should run beside it.
#
#   bash scripts/benchmark.sh [--size small|paper] [options of python -m scripts.benchmark]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.benchmark "$@"
