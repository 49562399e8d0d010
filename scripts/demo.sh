#!/usr/bin/env bash
# Segment the sample scan: in a napari window if there is a display, otherwise into demo-output/.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || [ "$(uname)" != Linux ]; then
    exec .venv/bin/l2gnet demo
fi
xvfb-run -a -s "-screen 0 1400x900x24" .venv/bin/l2gnet demo --headless demo-output
echo "No display here, so the demo ran on a virtual one and left in $PWD/demo-output:"
ls -1 demo-output
