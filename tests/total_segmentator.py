"""Masks of a drawn heart as TotalSegmentator writes them: with other ids, and many other organs."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

ORGANS = (
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas",
    "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right", "esophagus",
    "trachea", "aorta", "pulmonary_vein", "myocardium", "ventricle_left", "ventricle_right",
    "vertebrae_L1", "autochthon_left", "autochthon_right",
)  # fmt: skip


def write_total_segmentator(path: Path, heart: np.ndarray, affine: np.ndarray) -> None:
    """Write a mask (z,y,x) of the right ventricle, myocardium and left ventricle (1, 2, 3), with
    spleen, liver and stomach in the first rows around. affine: voxel (x,y,z) → RAS+ mm."""
    mask = np.array([0, 17, 15, 16], np.uint8)[heart]
    for row, organ in enumerate((1, 5, 6)):
        mask[:, row][heart[:, row] == 0] = organ
    table = "".join(
        f'<Label Key="{id}" Red="{id / 20}" Green="0.5" Blue="0" Alpha="1">'
        f"<![CDATA[{name}]]></Label>"
        for id, name in enumerate(ORGANS, 1)
    )
    header = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14]]>'
        '</Date>   <VolumeInformation Index="0">   <LabelTable>'
        f"{table}</LabelTable>  <StudyMetaDataLinkSet>  </StudyMetaDataLinkSet>  "
        "<VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation></CaretExtension>"
    )
    image = nib.Nifti1Image(mask.transpose(), affine)
    image.header.set_xyzt_units("mm")
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, header.encode()))
    nib.save(image, path)
