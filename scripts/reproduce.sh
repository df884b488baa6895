#!/usr/bin/env bash
# Reproduces the paper: set-up, data, runs, tables, figures; ends by naming the report.
#
#   bash scripts/reproduce.sh [experiment ...] [--preset smoke|quick|paper]
#
# Default: all experiments at preset quick (minutes on two CPU cores). Needs: Python 3.11 or newer
# and, once, a connection for packages and data. Kill it at any time; the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=quick
experiments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) preset=${2:?"--preset needs one of smoke, quick, paper"}; shift 2 ;;
    --preset=*) preset=${1#*=}; shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "error: unknown option $1: use --preset smoke|quick|paper" >&2; exit 2 ;;
    *) experiments+=("$1"); shift ;;
  esac
done
case "$preset" in
  smoke | quick | paper) ;;
  *) echo "error: --preset $preset is unknown: use smoke, quick or paper" >&2; exit 2 ;;
esac

for experiment in ${experiments[@]+"${experiments[@]}"}; do
  if [ ! -f "scripts/$experiment.sh" ] || [ ! -d "$experiment" ]; then
    echo "error: $experiment is no experiment: use one of the folders with a scripts/NAME.sh" >&2
    exit 2
  fi
done

bash scripts/setup.sh
if [ ${#experiments[@]} -eq 0 ]; then
  mapfile -t experiments < <(.venv/bin/python -c \
    'from scripts.experiments import EXPERIMENTS; print(*EXPERIMENTS, sep="\n")')
fi
# What one experiment lacks (data, say) does not keep the others from running.
failed=()
for experiment in "${experiments[@]}"; do
  status=0
  REPORT=no bash "scripts/$experiment.sh" --preset "$preset" || status=$?
  if [ "$status" -ge 128 ]; then exit "$status"; fi
  if [ "$status" -ne 0 ]; then failed+=("$experiment"); fi
done
.venv/bin/python -m scripts.report --preset "$preset" "${experiments[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: not finished: ${failed[*]} (why, see above); the same command goes on" >&2
  exit 2
fi
