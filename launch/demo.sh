#!/usr/bin/env bash
# Trains the small model on generated problems, about ten minutes on two cores: bash launch/demo.sh [--workdir=DIR]
set -euo pipefail
shopt -s lastpipe # so that the loop below can set `report`
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

report=
"$PYTHON" launch/main.py --config=configs/coding.py "$@" | while IFS= read -r line; do
    printf '%s\n' "$line"
    case $line in "report: "*) report=${line#report: } ;; esac
done
[ -n "$report" ] || exit 0

"$PYTHON" - "$(dirname "$report")" <<'END'
import sys
from gdsd_jax import report

print(*report.headline_lines(sys.argv[1]), sep="\n")
END
