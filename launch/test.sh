#!/usr/bin/env bash
# Checks the form of the code and runs the tests; arguments go to pytest: bash launch/test.sh -x tests/metrics_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

# The compilers, for the tests of launch/plan.py. Not beside the other packages: jax would look for devices everywhere.
install_compiler() { # FOLDER NAME PACKAGE...
    local folder=$1 name=$2
    shift 2
    [ "$*" != "$(cat "$folder/stamp" 2>/dev/null)" ] || return 0
    echo "test: installing $*, the $name compiler"
    "$PYTHON" -m pip install -q --disable-pip-version-check --upgrade --no-deps --target "$folder" "$@" &&
        echo "$*" >"$folder/stamp" || echo "test: it could not be installed, tests that need it are skipped" >&2
}

if ! "$PYTHON" -c 'import libtpu' 2>/dev/null; then
    wanted=$("$PYTHON" -c 'from importlib.metadata import requires; print(next(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))')
    install_compiler "$venv/tpu" TPU "$wanted"
    [ ! -f "$venv/tpu/libtpu/libtpu.so" ] || export TPU_LIBRARY_PATH=$venv/tpu/libtpu/libtpu.so
fi
if ! "$PYTHON" -c 'import jax_plugins' 2>/dev/null; then
    version=$("$PYTHON" -c 'from importlib.metadata import version; print(version("jax"))')
    install_compiler "$venv/cuda" GPU "jax-cuda12-plugin==$version" "jax-cuda12-pjrt==$version"
    [ ! -d "$venv/cuda/jax_plugins" ] || export CUDA_PLUGIN_PATH=$venv/cuda
fi
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --quiet --check .
exec "$PYTHON" -m pytest --numprocesses=2 --dist=loadfile "$@"
