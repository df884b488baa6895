#!/usr/bin/env bash
# Reproduces the paper: set-up, data, runs, tables, figures; ends by naming the report.
#
#   bash scripts/reproduce.sh [experiment ...] [--preset smoke|quick|study|paper]
#
# Default: all experiments at preset quick (minutes on two CPU cores). Needs: Python 3.11 or newer
# and, once, a connection for packages and data. Kill it at any time; the same command goes on.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep "$@"
