#!/usr/bin/env bash
# Install pinned packages into a virtual environment: with uv if setup.sh installed it, otherwise with pip.
#
# usage: scripts/install.sh VENV ARGUMENTS-OF-PIP-INSTALL...
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift

uv_install() {
    [ -x .venv/bin/uv ] || return 1
    # uv does not read pip's settings.
    if [ -d "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS=$PIP_FIND_LINKS; fi
    .venv/bin/uv pip install --python "$venv/bin/python" --compile-bytecode -c constraints.txt "$@"
}

uv_install "$@" || "$venv/bin/python" -m pip install -c constraints.txt "$@"
