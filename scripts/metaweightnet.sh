#!/usr/bin/env bash
# Label noise on CIFAR: runs, table, figures. Needs CIFAR-10 (139 to 170 MB, fetched), for preset
# paper CIFAR-100 too (169 MB, fetched). On two CPU cores: smoke half a minute, quick under 7 minutes;
# paper (ResNet-32, 60 epochs, 130 runs) is for a GPU.
#
#   bash scripts/metaweightnet.sh [--preset smoke|quick|paper] [--methods M ...] [--seeds S ...] [--jobs N]
set -euo pipefail
exec bash "$(dirname "$0")/experiment.sh" metaweightnet cifar10 "$@"
