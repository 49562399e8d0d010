#!/usr/bin/env bash
# Build sdist and wheel, validate the manifest in an editable install and in the wheel, and run the wheel
# without napari.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build: sdist, and the wheel from it"
.venv/bin/python -m build --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
.venv/bin/python -m zipfile -e "$wheel" "$work/unpacked"
for file in 'l2gnet_core/models/*.safetensors' '*.dist-info/licenses/LICENSE-weights'; do
    compgen -G "$work/unpacked/$file" >/dev/null || { echo "the wheel lacks $file" >&2; exit 1; }
done

echo "== manifest: editable install, then wheel"
.venv/bin/npe2 validate --imports napari-l2gnet
PYTHONPATH=$work/unpacked .venv/bin/python - "$work/unpacked" <<'PYTHON'
import sys
import napari_l2gnet
assert napari_l2gnet.__file__.startswith(sys.argv[1]), napari_l2gnet.__file__
PYTHON
PYTHONPATH=$work/unpacked .venv/bin/npe2 validate --imports napari-l2gnet

echo "== wheel in an empty environment"
.venv/bin/python -m venv "$work/venv"
scripts/install.sh "$work/venv" "$wheel"
cd "$work" # away from the sources
venv/bin/python - <<'PYTHON'
from importlib.util import find_spec

import nibabel as nib
import numpy as np

for name in ("napari", "PyQt6", "PySide6"):
    assert find_spec(name) is None, f"{name} came along with the wheel"
scan = np.random.default_rng(0).integers(0, 500, (96, 80, 4), dtype=np.int16)
nib.Nifti1Image(scan, np.diag([1.5, 1.5, 8.0, 1.0])).to_filename("scan.nii.gz")
PYTHON
venv/bin/l2gnet --help >/dev/null
venv/bin/l2gnet segment scan.nii.gz -o mask.nii.gz
venv/bin/python - <<'PYTHON'
import nibabel as nib
import numpy as np

scan, mask = nib.load("scan.nii.gz"), nib.load("mask.nii.gz")
assert mask.shape == scan.shape
np.testing.assert_array_equal(mask.affine, scan.affine)
PYTHON
echo "== the wheel works"
