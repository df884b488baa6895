#!/usr/bin/env bash
# Makes the virtual environment .venv with requirements.txt in it, once; later calls return at once.
# Needs: Python 3.11, which is tested, or a newer one, which is not (PYTHON=... to choose one). Takes: a few minutes, mostly torch.
# The other scripts source it: it sets `root` and what lets Python find the project from any folder,
# so that relative paths in options and in EVOGRAD_DATA and EVOGRAD_CACHE are those of the caller.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed; '$python' is not it. Set PYTHON to one that is." >&2
  exit 2
fi
# The stamp is written last, so an interrupted set-up is taken up again.
stamp=$root/.venv/requirements.installed
if ! [ -x "$root/.venv/bin/python" ] || ! cmp -s "$root/requirements.txt" "$stamp"; then
  echo "setting up .venv (once) ..." >&2
  # Without pip, or with a Python that has gone, it is made anew.
  if ! "$root/.venv/bin/python" -m pip --version &> /dev/null &&
    ! "$python" -m venv --clear "$root/.venv" >&2; then
    rm -rf "$root/.venv"
    echo "error: '$python' cannot make a virtual environment. Install python3-venv (Debian, Ubuntu), \
or set PYTHON to a Python that has venv and ensurepip." >&2
    exit 2
  fi
  "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements.txt" &
  trap 'kill "$!"; exit 143' INT TERM HUP  # else bash would end only when pip has
  wait "$!"
  trap - INT TERM HUP
  cp "$root/requirements.txt" "$stamp"
fi
