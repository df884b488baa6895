#!/usr/bin/env bash
# What the scripts of the experiments share: set-up, runs, report.
#
#   bash scripts/experiment.sh EXPERIMENT [options of python -m scripts.sweep]
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=$1
shift
bash scripts/setup.sh
.venv/bin/python -m scripts.sweep "$experiment" "$@"
if [ "${REPORT:-yes}" = yes ]; then
  preset=quick
  while [ $# -gt 0 ]; do
    case "$1" in --preset) preset=$2 ;; --preset=*) preset=${1#*=} ;; esac
    shift
  done
  .venv/bin/python -m scripts.report --preset "$preset" "$experiment"
fi
