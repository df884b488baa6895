#!/usr/bin/env bash
# The estimators beside other libraries for hypergradients, Betty, TorchOpt and higher, on the same
# work: error, time and memory. They get an environment of their own, .venv-peers. Takes some ten
# minutes on two CPU cores; nothing else should run beside it. Ends by naming the table.
#
#   bash scripts/peers.sh [options of python -m scripts.peers]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
peers=$root/.venv-peers
packages=(betty-ml==0.1.1 torchopt==0.7.3)
stamp=$peers/requirements.installed
if ! cmp -s <(cat "$root/requirements.txt"; echo "${packages[@]}") "$stamp"; then
  echo "setting up .venv-peers (once) ..." >&2
  [ -x "$peers/bin/python" ] || "$python" -m venv "$peers"
  # Newer versions of pip refuse Betty's metadata ("torch>=1.6.*").
  "$peers/bin/python" -m pip install --quiet --disable-pip-version-check pip==23.2.1
  "$peers/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements.txt" "${packages[@]}"
  { cat "$root/requirements.txt"; echo "${packages[@]}"; } > "$stamp"
fi
exec "$peers/bin/python" -m scripts.peers "$@"
