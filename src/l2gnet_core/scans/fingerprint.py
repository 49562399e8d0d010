"""Recognise a scan by its voxels alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Key in an entry of a card's history: fingerprints of the scans that the model was tuned on.
SCANS = "scans_sha256"
# Constants of the 64-bit mixing function SplitMix64 (Steele et al., OOPSLA 2014).
_ADDED, _FIRST, _SECOND = map(
    np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def fingerprint(array: NDArray[Any]) -> str:
    """SHA-256, in hexadecimal, of an array's shape and its values as float32: equal for equal
    values, whatever their dtype in the file."""
    state = hashlib.sha256(repr(array.shape).encode())
    # In parts, because scans can be large.
    for part in array:
        state.update(_single(part).data)
    return state.hexdigest()


def fingerprints(array: NDArray[Any]) -> tuple[str, str]:
    """Both marks by which cards know a scan (z,y,x): `fingerprint`, which all cards have, and
    `order_free_fingerprint`."""
    return fingerprint(array), order_free_fingerprint(array)


def order_free_fingerprint(array: NDArray[Any], labels: NDArray[Any] | None = None) -> str:
    """As `fingerprint`, but equal for the 48 orders in which a scan (z,y,x) can be stored: with its
    axes swapped and flipped.

    labels: whole numbers of the array's shape; the fingerprint is then of both together, and also
    differs if the same labels lie elsewhere on the scan.
    """
    # Reading in the order of the memory is fastest, and the result is equal in every order.
    axes = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    array = array.transpose(axes)
    labels = None if labels is None else labels.transpose(axes)
    # Sums over the voxels, and over the pairs of neighbours along each axis. The pairs tell apart
    # arrays that hold equally many voxels of each value, as labels often do.
    sums = np.zeros(4, np.uint64)
    before: NDArray[np.uint64] | None = None
    for index, part in enumerate(array):
        mixed = _mixed(part, None if labels is None else labels[index])
        along_first = 0 if before is None else np.einsum("ij,ij->", before, mixed)
        along_second = np.einsum("ij,ij->", mixed[1:], mixed[:-1])
        along_third = np.einsum("ij,ij->", mixed[:, 1:], mixed[:, :-1])
        sums += np.array([mixed.sum(), along_first, along_second, along_third], np.uint64)
        before = mixed
    total, *pairs = sums.tolist()
    known = (total, sorted(zip(array.shape, pairs, strict=True)))
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _single(part: NDArray[Any]) -> NDArray[np.float32]:
    """Values as float32, in C order; for those beyond its range their eighth root, so that they
    stay finite and different."""
    if part.dtype == np.float64 and (large := np.abs(part) > np.finfo(np.float32).max).any():
        part = np.where(large, np.copysign(np.abs(part) ** 0.125, part), part)
    return np.ascontiguousarray(part, dtype=np.float32)


def _mixed(part: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[np.uint64]:
    """A random-looking odd number for each value (and label) of a part of an array."""
    # Adding 0 makes -0.0 equal to 0.0.
    bits = (_single(part) + np.float32(0)).view(np.uint32)
    mixed = bits.astype(np.uint64)
    if labels is not None:
        mixed |= labels.astype(np.uint64) << np.uint64(32)
    mixed += _ADDED
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(32)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(29)
    # Odd, because a product of even numbers would lose bits.
    return mixed | np.uint64(1)
