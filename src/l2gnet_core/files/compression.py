"""How much compression can shrink voxels.

A header that claims more is wrong, or its file is cut short: checked before memory is asked for.
"""

#: Deflate shrinks to 1/1032 at most (zlib.net/zlib_tech.html); a little is added.
MOST_DEFLATE = 1040
#: Any codec of DICOM or TIFF: even an empty scan shrinks less.
MOST_COMPRESSION = 10_000
