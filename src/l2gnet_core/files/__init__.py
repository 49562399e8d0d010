"""Reading scans and masks, writing masks: the public face of this package.

`formats` tells a file's format, a module for each format reads and writes it, `folders` finds the
scans of a folder.
"""

from l2gnet_core.files.folders import but_for_case, by_stem, scans_in
from l2gnet_core.files.formats import (
    DICOM,
    FORMATS,
    SUFFIXES,
    WRITABLE,
    format_of,
    is_supported,
    stem_of,
    suffix_of,
)
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.reading import (
    LabelFile,
    read_any,
    read_label_text,
    read_labels,
    read_volume,
)
from l2gnet_core.files.values import as_labels
from l2gnet_core.files.writing import write_labels

__all__ = [
    "DICOM",
    "FORMATS",
    "SUFFIXES",
    "WRITABLE",
    "LabelFile",
    "LabelText",
    "as_labels",
    "but_for_case",
    "by_stem",
    "format_of",
    "is_supported",
    "read_any",
    "read_label_text",
    "read_labels",
    "read_volume",
    "scans_in",
    "stem_of",
    "suffix_of",
    "write_labels",
]
