"""Which scan it is, told by its voxels alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Where an entry of a card's history keeps the fingerprints of the scans that were learnt from.
SCANS = "scans_sha256"


def fingerprint(array: NDArray[Any], kind: DTypeLike = np.float32) -> str:
    """SHA-256, in hexadecimal, of an array's shape and of its values as numbers of a kind: the same
    for equal values, whatever type of file they come from."""
    state = hashlib.sha256(repr(array.shape).encode())
    # Piece by piece: scans can be large.
    for part in array:
        state.update(np.ascontiguousarray(part, dtype=kind).data)
    return state.hexdigest()
