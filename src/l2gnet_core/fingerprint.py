"""Recognise a scan by its voxels alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Key in an entry of a card's history: fingerprints of the scans that the model was tuned on.
SCANS = "scans_sha256"


def fingerprint(array: NDArray[Any], kind: DTypeLike = np.float32) -> str:
    """SHA-256, in hexadecimal, of an array's shape and its values converted to `kind`: equal for
    equal values, whatever their dtype in the file."""
    state = hashlib.sha256(repr(array.shape).encode())
    # In parts, because scans can be large.
    for part in array:
        state.update(np.ascontiguousarray(part, dtype=kind).data)
    return state.hexdigest()
