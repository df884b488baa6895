#!/usr/bin/env bash
# Makes the virtual environment .venv with requirements.txt in it, once; later calls return at once.
# Needs: Python 3.11 or 3.12 (PYTHON=... to choose one). Takes: a few minutes, mostly torch.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed; '$python' is not it. Set PYTHON to one that is." >&2
  exit 2
fi
# The stamp is written last, so an interrupted set-up is taken up again.
stamp=.venv/requirements.installed
if ! cmp -s requirements.txt "$stamp"; then
  echo "setting up .venv (once) ..."
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$stamp"
fi
