#!/usr/bin/env bash
# How close each estimator gets to the exact one-step hypergradient, on rotation (MNIST) and label
# noise (CIFAR-10), at the start, middle and end of training: measurements, tables, figures. Needs
# MNIST and CIFAR-10 (150 to 180 MB, fetched). On two CPU cores about a quarter of an hour; smoke two minutes.
# Kill it at any time: the same command goes on.
#
#   bash scripts/fidelity.sh [--preset smoke|quick] [--device auto|cpu|cuda]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.fidelity "$@"
