#!/usr/bin/env bash
# Learning to rotate MNIST: runs, table, figures. Needs MNIST (11 MB, fetched). On two CPU cores:
# smoke under a minute, quick a few minutes, paper (5 methods, 5 seeds, 5 epochs) about an hour.
#
#   bash scripts/rotation.sh [--preset smoke|quick|paper] [--methods M ...] [--seeds S ...] [--set KEY=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep rotation "$@"
