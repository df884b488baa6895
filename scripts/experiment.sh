#!/usr/bin/env bash
# What the scripts of the experiments share: set-up, runs, report.
#
#   bash scripts/experiment.sh EXPERIMENT "DATASET ..." [options of python -m scripts.sweep]
#
# The data sets are fetched first, so that one sees it happen; runs would fetch what is missing too.
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=$1
read -ra datasets <<< "$2"
shift 2
bash scripts/setup.sh
if [ ${#datasets[@]} -gt 0 ]; then
  .venv/bin/python -m common.datasets "${datasets[@]}" | grep -v sha256
fi
.venv/bin/python -m scripts.sweep "$experiment" "$@"
if [ "${REPORT:-yes}" = yes ]; then
  preset=quick
  while [ $# -gt 0 ]; do
    case "$1" in --preset) preset=$2 ;; --preset=*) preset=${1#*=} ;; esac
    shift
  done
  .venv/bin/python -m scripts.report --preset "$preset" "$experiment"
fi
