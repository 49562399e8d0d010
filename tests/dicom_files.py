"""DICOM files to test with, written by pydicom."""

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES = "1.2.826.0.1.3680043.8.498.1"
AXIAL = (1, 0, 0, 0, 1, 0)


def image(pixels, **attributes):
    """A data set of one image, or of frames: (y, x) or (frames, y, x) of uint16 or int16."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    one.Modality, one.SeriesInstanceUID, one.SeriesNumber = "CT", SERIES, 3
    one.PatientName, one.SeriesDescription = "Doe^Jane", "soft tissue"
    one.Rows, one.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        one.NumberOfFrames = len(pixels)
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 8 * pixels.dtype.itemsize
    one.HighBit = one.BitsStored - 1
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    one.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(one, name, value)
    return one


def save_image(path, pixels, **attributes):
    """Write `image(…)`; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image(pixels, **attributes), enforce_file_format=True)
    return path


def save_series(
    folder, voxels, spacing=(2.5, 0.7, 0.8), along=AXIAL, origin=(-10, 20, 30), step=None, **more
):
    """Write (z, y, x) voxels, a file a slice, in no order of names; returns the files by slice.

    spacing: (z, y, x) mm. along: of ImageOrientationPatient. step: mm from slice to slice in LPS+,
    along the normal unless given.
    """
    along = np.array(along, float)
    if step is None:
        normal = np.cross(along[:3], along[3:])
        step = normal / np.linalg.norm(normal) * spacing[0]
    files = []
    for k, pixels in enumerate(voxels):
        files.append(
            save_image(
                folder / f"IM{(k * 7) % len(voxels):04}",
                pixels,
                **{
                    "ImagePositionPatient": [
                        float(f"{v:.6g}") for v in np.array(origin) + k * np.array(step)
                    ],
                    "ImageOrientationPatient": [float(f"{v:.8g}") for v in along],
                    "PixelSpacing": list(spacing[1:]),
                    "SliceThickness": spacing[0],
                    "InstanceNumber": len(voxels) - k,
                    **more,
                },
            )
        )
    return files
