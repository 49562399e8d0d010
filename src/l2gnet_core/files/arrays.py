"""Read scans and labels of .npz and .h5 files, whole or slice by slice, as papers share them.

Source: the layouts of the preprocessed Synapse of TransUNet (Chen et al. 2021) and of the ACDC of
SSL4MIS (Luo et al. 2020) and MT-UNet (Wang et al. 2022).
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError
from l2gnet_core.files.compression import MOST_DEFLATE
from l2gnet_core.files.formats import stem_of, suffix_of
from l2gnet_core.files.reading import LabelFile
from l2gnet_core.files.values import as_labels, plain_values
from l2gnet_core.scans.volume import Volume

#: Suffixes of such files.
ARRAY_SUFFIXES = (".npz", ".npy.h5", ".h5", ".hdf5")
# Names of arrays; MT-UNet writes "img".
_IMAGE, _LABELS = ("image", "img"), ("label",)
# case0005_slice000, patient001_frame01_slice_1, case_001_sliceED_0
_SLICE = re.compile(r"(.+?)[_-]?slice[_-]?(E[DS])?[_-]?(\d+)", re.IGNORECASE)
# case_002_volume_ED
_VOLUME = re.compile(r"(.+?)[_-]volume[_-](E[DS])", re.IGNORECASE)


@dataclass(frozen=True)
class ArrayFiles:
    """One scan and its labels in array files: one file, or one for each slice, in their order.

    Such files state neither voxel size nor orientation.
    """

    paths: tuple[Path, ...]
    sliced: bool = False

    @property
    def name(self) -> str:
        """Folder and file name, without the number of a slice."""
        return f"{self.paths[0].parent.name}/{scan_of(self.paths[0])[0]}"

    def read_image(self) -> Volume:
        """The scan, (z,y,x) or (t,z,y,x). Raises InputError if it cannot be read."""
        warnings: list[str] = []
        data = plain_values(self.name, self._stacked(_IMAGE), warnings)
        first, second, last = data.shape[-3:]
        # Slices are mostly square. SSL4MIS stores its left atria as (rows, columns, slices).
        if not self.sliced and first == second != last:
            warnings.append(
                f"{self.name} is read as (slices, rows, columns), but its shape {data.shape} looks "
                "like (rows, columns, slices): if it is, transpose it and export it again."
            )
        return Volume(data, name=self.name, warnings=tuple(warnings))

    def read_labels(self) -> LabelFile:
        """The labels in the scan's shape, uint8 or uint16, without names. Raises InputError."""
        data = plain_values(self.name, self._stacked(_LABELS), [], mask=True)
        labels = as_labels(data, f"The label of {self.name}")
        return LabelFile(Volume(labels, name=self.name))

    def _stacked(self, names: tuple[str, ...]) -> npt.NDArray[Any]:
        arrays = [read_array(path, names) for path in self.paths]
        wanted = (2,) if self.sliced else (2, 3, 4)
        for path, array in zip(self.paths, arrays, strict=True):
            if array.ndim not in wanted or not array.size:
                kind = (
                    "a slice (rows, columns)" if self.sliced else "a scan (slices, rows, columns)"
                )
                raise InputError(
                    f"Expected {kind} as '{names[0]}' in {path.name}, but its shape is "
                    f"{array.shape}; export it again."
                )
            if array.shape != arrays[0].shape:
                raise InputError(
                    f"Expected slices of one shape, but '{names[0]}' is {array.shape} in "
                    f"{path.name} and {arrays[0].shape} in {self.paths[0].name}; export them again."
                )
        return np.stack(arrays) if arrays[0].ndim == 2 else arrays[0]


def scan_of(path: Path) -> tuple[str, int | None]:
    """The name of the scan that a file belongs to, and the number of the slice that the file holds;
    None if it holds all slices."""
    stem = stem_of(path)
    if found := _SLICE.fullmatch(stem):
        return "_".join(filter(None, found.groups()[:2])), int(found[3])
    if found := _VOLUME.fullmatch(stem):
        return f"{found[1]}_{found[2]}", None
    return stem, None


def array_scans(folder: Path) -> tuple[dict[str, list[ArrayFiles]], list[str]]:
    """The scans in a folder's array files by name, and a sentence for each scan whose slices are
    not numbered consecutively. A name has two entries if its scan is stored whole and in slices."""
    whole: dict[str, list[ArrayFiles]] = defaultdict(list)
    slices: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if suffix_of(path) not in ARRAY_SUFFIXES or path.name.startswith(".") or path.is_dir():
            continue
        name, number = scan_of(path)
        if number is None:
            whole[name].append(ArrayFiles((path,)))
        else:
            slices[name].append((number, path))
    problems = []
    for name, numbered in slices.items():
        numbered.sort()
        whole[name].append(ArrayFiles(tuple(path for _, path in numbered), sliced=True))
        numbers = [number for number, _ in numbered]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            problems.append(
                f"The {len(numbers)} slices of {folder.name}/{name} go from {numbers[0]} to "
                f"{numbers[-1]}: some are missing or there twice."
            )
    return dict(whole), problems


def read_array(path: Path, names: tuple[str, ...]) -> npt.NDArray[Any]:
    """The first array that has one of these names in an .npz or .h5 file; nothing is unpickled.

    Raises InputError, one sentence, for a damaged file and for one without such an array.
    """
    try:
        found = _from_npz(path, names) if suffix_of(path) == ".npz" else _from_h5(path, names)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path.name} does not fit into this computer's memory.") from error
    except (
        *(ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        # The system's messages are clear (a missing file, no permission), the libraries' are not.
        why = getattr(error, "strerror", None)
        raise InputError(
            f"Expected arrays of numbers in {path.name}, but "
            f"{why or 'the file is damaged or of another kind'}; copy or export it again."
        ) from error
    if not isinstance(found, np.ndarray):
        held = ", ".join(found) or "nothing"
        raise InputError(
            f"Expected an array '{names[0]}' in {path.name}, but it holds {held}; export it again."
        )
    return found


def _from_npz(path: Path, names: tuple[str, ...]) -> npt.NDArray[Any] | list[str]:
    """The array, or the names of the arrays that the file holds instead."""
    # Opened here, because NumPy leaves the file of a damaged archive open.
    with path.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):  # an .npy under another name
            return ["one array without a name"]
        name = next((name for name in names if name in loaded.files), None)
        return list(loaded.files) if name is None else np.asarray(loaded[name])


def _from_h5(path: Path, names: tuple[str, ...]) -> npt.NDArray[Any] | list[str]:
    import h5py

    with h5py.File(path, "r") as file:
        name = next((name for name in names if isinstance(file.get(name), h5py.Dataset)), None)
        if name is None:
            return list(file)
        stored = file[name]
        claimed = math.prod(stored.shape or (0,)) * stored.dtype.itemsize
        # HDF5 returns fill values for voxels that were never written.
        if claimed > MOST_DEFLATE * path.stat().st_size:
            raise ValueError
        return np.asarray(stored[()])
