#!/usr/bin/env bash
# Tries to break runs: kills, flipped bits, a full disk, damaged records and checkpoints, wrong
# values, two commands at once. Nothing may be lost, accepted though damaged, or end in a traceback;
# the exit status is 1 if something is. Needs no data; as root it fills a small tmpfs, else it limits
# file sizes. Takes: some five minutes on two cores; --kills 100 --flips 200 tries harder.
#
#   bash scripts/torture.sh [--kills N] [--flips N] [--output FILE]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.torture "$@"
