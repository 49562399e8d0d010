#!/usr/bin/env bash
# Make .venv with the pinned packages and, on Debian and Ubuntu, install the system libraries Qt needs.
# If nothing is missing, it does nothing.
#
# usage: scripts/setup.sh EXTRAS     (e.g. all,test)
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1

die() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# Install Debian packages. Without root or apt, print the command instead.
apt_install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing system packages: $*"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq </dev/null
        apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
    else
        die "System packages are missing. Please run

    sudo apt-get update && sudo apt-get install -y $*

(or install what provides them on your system), then call make again."
    fi
}

# Libraries are looked up by file name: package names differ between releases.
system_libraries() {
    local known missing=() library package
    known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
    while read -r library package; do
        case $known in *"$library "*) ;; *) missing+=("$package") ;; esac
    done <<'LIST'
libEGL.so.1 libegl1
libGL.so.1 libgl1
libglib-2.0.so.0 libglib2.0-0
libdbus-1.so.3 libdbus-1-3
libfontconfig.so.1 libfontconfig1
libxkbcommon-x11.so.0 libxkbcommon-x11-0
libxcb-cursor.so.0 libxcb-cursor0
libxcb-icccm.so.4 libxcb-icccm4
libxcb-keysyms.so.1 libxcb-keysyms1
libxcb-shape.so.0 libxcb-shape0
libxcb-xkb.so.1 libxcb-xkb1
LIST
    compgen -G '/usr/lib*/dri/*.so' >/dev/null || compgen -G '/usr/lib/*/dri/*.so' >/dev/null ||
        missing+=(libgl1-mesa-dri)
    if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then # no screen: a virtual one
        command -v xvfb-run >/dev/null || missing+=(xvfb)
        command -v xauth >/dev/null || missing+=(xauth)
    fi
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# The system's python3 if it is new enough, otherwise the newest installed one. PYTHON=… overrides this.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed, and none of '${PYTHON:-python3 python3.13 python3.12 python3.11}' is one.
Install it, or name it: make setup PYTHON=/path/to/python"
}

make_venv() {
    # A virtual environment does not survive being moved or losing its Python.
    if grep -qsF "$PWD/.venv" .venv/bin/activate && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "$(basename "$python")-venv"
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

if [ "$(uname)" = Linux ]; then system_libraries; fi
make_venv

stamp=.venv/installed-${extras//,/-}
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    .venv/bin/python -m pip install -q -c constraints.txt uv || echo "uv cannot be had: going on with pip"
    scripts/install.sh .venv hatchling editables
    scripts/install.sh .venv --no-build-isolation -e ".[$extras]"
    echo "$wanted" >"$stamp"
fi
