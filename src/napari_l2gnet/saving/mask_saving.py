"""Saves a mask from a widget.

napari's own dialog offers napari's TIFF writer first, which drops voxel size, names and colours,
and refuses NIfTI.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QPushButton

from l2gnet_core.errors import InputError
from l2gnet_core.files import DICOM, WRITABLE, format_of, stem_of, suffix_of
from napari_l2gnet.annotating.preview import shows_proposal
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import IMAGE_KEY, MaskLayer
from napari_l2gnet.scans.layers import file_of
from napari_l2gnet.writer import destination, write_mask

#: The button's tooltip.
TIP = "Save as NIfTI or TIFF on the scan's own grid, with names and colours of the organs"
_NIFTI, _TIFF = "NIfTI (*.nii.gz *.nii)", "TIFF (*.tif *.tiff)"
#: The suffix that is added to a name without one.
_SUFFIX = {_NIFTI: ".nii.gz", _TIFF: ".tif"}
#: Metadata key: the files that a mask was saved as. They alone are offered to be replaced by it.
_SAVED_KEY = "l2gnet_saved"


class MaskSaving(QObject):
    """Asks for a file and writes the mask of a widget in a thread; `button` starts it."""

    #: The outcome in a sentence, and whether saving failed.
    said = Signal(str, bool)
    #: Saving began or ended: controls must be updated.
    changed = Signal()

    def __init__(self, button: QPushButton, mask: Callable[[], MaskLayer | None]) -> None:
        super().__init__(button)
        self._mask = mask
        # Where the last mask went if not beside its scan: masks of many scans often go into one
        # folder, but none belongs beside another patient's scan.
        self._folder: Path | None = None
        self._job = LatestJob(self)
        self._job.changed.connect(self.changed)
        self._job.failed.connect(lambda problem: self.said.emit(problem, True))
        button.clicked.connect(self.ask)

    @property
    def refusal(self) -> str:
        """Why nothing can be saved now, in a sentence; "" if it can."""
        if self._mask() is None:
            return "Press Segment first."
        return "The mask is being saved." if self._job.busy else ""

    def suggested(self, mask: MaskLayer) -> Path:
        """A path named after the scan, beside its file or in the folder of the last mask.

        It is numbered if the file exists and was not saved from this mask.
        """
        beside, saved = _beside(mask), mask.layer.metadata.get(_SAVED_KEY, ())
        suffix = suffix_of(beside)
        path = (self._folder or beside.parent) / beside.name
        number = 1
        # A scan's name may be so long, or its mask's a link that leads to itself, that Path raises.
        while os.path.lexists(path) and Path(os.path.realpath(path)) not in saved:
            number += 1
            path = path.with_name(f"{beside.name.removesuffix(suffix)}_{number}{suffix}")
        return path

    def ask(self) -> None:
        """Let the user choose a file, and save there."""
        mask = self._mask()
        if mask is None:
            return
        path = self.suggested(mask)
        likely = _TIFF if "tif" in suffix_of(path) else _NIFTI
        name, kind = QFileDialog.getSaveFileName(
            self.parent(), "Save the mask", str(path), f"{_NIFTI};;{_TIFF}", likely
        )
        if name:
            self.save(Path(name), _SUFFIX.get(kind, _SUFFIX[_NIFTI]))

    def save(self, path: Path, suffix: str = ".nii.gz") -> None:
        """Save the mask as it is now; emits `said` with the outcome.

        suffix: added to a name without a suffix that can be written.
        """
        mask = self._mask()
        if mask is None:
            return
        image = mask.layer.metadata[IMAGE_KEY]  # its layer may be deleted
        try:
            path = destination(path, suffix, [*mask.viewer.layers, image])
        except InputError as error:
            self.said.emit(str(error), True)
            return
        data, attributes, _ = mask.layer.as_layer_data_tuple()
        # A copy: the user may go on painting.
        data = np.array(data)
        finished, count = mask.segmentation.coverage()
        beware = ""
        if finished < count:
            beware = f" It is partial: {finished} of {count} slices are segmented."
        if shows_proposal(annotation_of(mask)):
            beware += " The preview on screen is not accepted, so the mask without it was saved."

        def write() -> Generator[None, None, None]:
            write_mask(path, data, attributes)
            yield

        def tell(_: Any) -> None:
            elsewhere = path.parent.resolve() != _beside(mask).parent.resolve()
            self._folder = path.parent if elsewhere else None
            for layer in mask.viewer.layers:
                layer.metadata.get(_SAVED_KEY, set()).discard(path.resolve())
            mask.layer.metadata.setdefault(_SAVED_KEY, set()).add(path.resolve())
            where = f" in {path.parent}" if elsewhere else ""
            self.said.emit(f'Saved "{mask.layer.name}" as {path.name}{where}.{beware}', False)

        self._job.run(write(), tell)


def _beside(mask: MaskLayer) -> Path:
    """A path for a mask, named after its scan and beside the scan's file, if it has one."""
    image = mask.layer.metadata[IMAGE_KEY]
    file = file_of(image)
    suffix, folder = _SUFFIX[_NIFTI], Path.home()
    # A DICOM series: names of its files say little, and its folder may hold several series.
    name = re.sub(r'[\\/:*?"<>|]+', "_", image.name)
    if file is not None and format_of(file) is DICOM:
        # Inside the folder of slices, the mask would pass for a scan.
        folder = (file if file.is_dir() else file.parent).resolve().parent
    elif file is not None:
        name, folder = stem_of(file), file.parent
        suffix = suffix_of(file) if suffix_of(file) in WRITABLE else suffix
    return folder / f"{name}_mask{suffix}"
