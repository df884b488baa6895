#!/usr/bin/env bash
# The one-dimensional illustration: both figures at the paper's size. Takes seconds, needs no data.
#
#   bash scripts/toy_1d.sh [--preset smoke|quick|paper]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep toy_1d "$@"
