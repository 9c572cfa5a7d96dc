#!/usr/bin/env bash
# Runs the tests; arguments go to pytest: bash launch/test.sh -x tests/metrics_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh
exec "$PYTHON" -m pytest "$@"
