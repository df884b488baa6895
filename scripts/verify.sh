#!/usr/bin/env bash
# Checks what this project publishes: makes every table and figure of results/ and of the documents
# again from the records, reads every record, and compares the checksums of data and embedded files.
# Needs: nothing beyond setup.sh. Takes: a minute. Exit status 1 if something is wrong.
#
#   bash scripts/verify.sh [records] [tables] [embedded] [data]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
exec "$root/.venv/bin/python" -m scripts.verify "$@"
