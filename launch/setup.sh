# Sourced by demo.sh and test.sh: makes .venv with what requirements.txt names and sets PYTHON to its interpreter.
# Does nothing when that is done already; can be interrupted and run again. Needs Debian or Ubuntu only for what is
# missing: elsewhere it says what to install.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repository/.venv
PYTHON=$venv/bin/python

fail() {
    echo "setup: $*" >&2
    exit 2
}

# A Python >= 3.11 that can make environments; 3.12 first, where the newest jax runs.
find_python() {
    local name
    for name in python3.12 python3.13 python3.14 python3.11 python3 python; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Debian packages, if we may install them without asking.
apt_install() {
    local as_root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    echo "setup: apt-get install $*"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@")
    "${install[@]}" >/dev/null 2>&1 || { "${as_root[@]}" apt-get update -qq >/dev/null 2>&1; "${install[@]}" >/dev/null 2>&1; }
}

# The jax of this machine: [tpu], [cuda13] or [cuda12] after the driver's version, or nothing.
jax_extra() {
    # v5e and later show up as vfio groups, as other devices may: the chip's maker or a TPU VM's variables decide.
    if compgen -G '/dev/accel[0-9]*' >/dev/null || {
        compgen -G '/dev/vfio/[0-9]*' >/dev/null &&
            { env | grep -q '^TPU_' || grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor; }
    }; then
        echo '[tpu]'
    elif nvidia-smi -L 2>/dev/null | grep -q GPU; then
        case $(nvidia-smi | grep -oE 'CUDA[A-Z ]* Version: *[0-9]+' | grep -oE '[0-9]+$') in
            12*) echo '[cuda12]' ;;
            *) echo '[cuda13]' ;;
        esac
    fi
}

make_environment() {
    local python packages
    python=$(find_python) ||
        for packages in "python3 python3-venv" "python3.12 python3.12-venv" "python3.11 python3.11-venv"; do
            # shellcheck disable=SC2086  # two packages
            apt_install $packages && python=$(find_python) && break
        done
    [ -n "$python" ] || fail "needs Python 3.11 or newer with venv: apt-get install python3 python3-venv, then run this again"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make $venv"
}

install_requirements() {
    local extra stamp log=$venv/install.log
    extra=$(jax_extra)
    "$PYTHON" -m pip --version >/dev/null 2>&1 || make_environment # absent, half made, or its Python was replaced
    stamp="$("$PYTHON" -VV) jax$extra $(cat "$repository"/{,tests/}requirements.txt | cksum)"
    [ "$stamp" != "$(cat "$venv/stamp" 2>/dev/null)" ] || return 0
    command -v bwrap >/dev/null || apt_install bubblewrap ||
        echo "setup: bubblewrap, the better sandbox for the model's programs, is missing: apt-get install bubblewrap"
    echo "setup: $("$PYTHON" -V), installing jax$extra and the other packages into .venv; takes minutes, once"
    "$PYTHON" -m pip install -q --disable-pip-version-check -r "$repository/requirements.txt" "jax$extra" >"$log" 2>&1 || {
        grep -v '^WARNING' "$log" | tail -n 15 >&2
        fail "pip failed, see $log"
    }
    echo "$stamp" >"$venv/stamp"
}

# Two scripts started at once must not build the same environment. What fails ends the shell in brackets, not the one
# that a user types in.
(
    ! command -v flock >/dev/null || flock 9
    install_requirements
) 9>"$repository/.venv.lock" || return 2 2>/dev/null || exit 2
