#!/usr/bin/env bash
# Label noise: runs, table, figures. Presets smoke (half a minute on two CPU cores) and quick (5
# minutes) need MNIST only (12 MB, fetched). study (MNIST with ten seeds, two hours; CIFAR-10 with
# five, two and a half more) and paper (60 epochs, 130 runs, for a GPU) fetch CIFAR-10 (139 to 170
# MB); study's last 50 runs need the labels of CIFAR-10N (EVOGRAD_DATA names their folder), paper
# CIFAR-100 (169 MB, fetched).
#
#   bash scripts/metaweightnet.sh [--preset smoke|quick|study|paper] [--methods M ...] [--seeds S ...] [--set KEY=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep metaweightnet "$@"
