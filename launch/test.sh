#!/usr/bin/env bash
# Checks the form of the code and runs the tests; arguments go to pytest: bash launch/test.sh -x tests/metrics_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

# The TPU compiler, for the tests of launch/plan.py. Not beside the other packages: jax would look for TPUs everywhere.
if ! "$PYTHON" -c 'import libtpu' 2>/dev/null; then
    compiler=$venv/tpu
    wanted=$("$PYTHON" -c 'from importlib.metadata import requires; print(next(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))')
    if [ "$wanted" != "$(cat "$compiler/stamp" 2>/dev/null)" ]; then
        echo "test: installing $wanted, the TPU compiler"
        "$PYTHON" -m pip install -q --disable-pip-version-check --upgrade --no-deps --target "$compiler" "$wanted" &&
            echo "$wanted" >"$compiler/stamp" || echo "test: it could not be installed, tests that need it are skipped" >&2
    fi
    [ ! -f "$compiler/libtpu/libtpu.so" ] || export TPU_LIBRARY_PATH=$compiler/libtpu/libtpu.so
fi
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --quiet --check .
exec "$PYTHON" -m pytest --numprocesses=2 --dist=loadfile "$@"
