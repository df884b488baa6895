#!/usr/bin/env bash
# Checks what this project publishes: makes every table and figure of results/ and of the documents
# again from the records, and compares them and the checksums of records, embedded files and data.
# Needs: nothing beyond setup.sh. Takes: a minute or two. Exit status 1 if something is wrong.
#
#   bash scripts/verify.sh
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.publish --check "$@"
