#!/usr/bin/env bash
# Named entities in languages with few labelled sentences: runs, tables, figures. Presets smoke and
# quick need nothing (corpus and encoder are made here); on two CPU cores smoke half a minute, quick a few
# minutes, study (five seeds, 210 runs; half of them on MasakhaNER, EVOGRAD_DATA) a few hours.
# Preset paper is for a GPU and needs WikiAnn (EVOGRAD_DATA) and XLM-R base.
#
#   bash scripts/metaxl.sh [--preset smoke|quick|study|paper] [--methods M ...] [--seeds S ...] [--set KEY=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep metaxl "$@"
