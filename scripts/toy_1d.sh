#!/usr/bin/env bash
# The one-dimensional illustration: both figures at the paper's size. Takes seconds, needs no data.
#
#   bash scripts/toy_1d.sh [--preset smoke|quick|paper]
set -euo pipefail
exec bash "$(dirname "$0")/experiment.sh" toy_1d "" "$@"
