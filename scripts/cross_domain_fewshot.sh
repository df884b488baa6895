#!/usr/bin/env bash
# Few-shot learning across domains: pre-training, runs, tables, figures. Presets smoke, quick and study
# use the images in cross_domain_fewshot/embedded; paper needs miniImageNet, CUB, Cars, Places and
# Plantae in a folder of yours (environment variable EVOGRAD_DATA). On two CPU cores: smoke half
# a minute, quick a few minutes, study (five seeds, 140 runs) a night; paper (224 px, 400 epochs, 88 runs) is for GPUs.
#
#   bash scripts/cross_domain_fewshot.sh [--preset smoke|quick|study|paper] [--methods M ...] [--seeds S ...] [--set KEY=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.sweep cross_domain_fewshot "$@"
