"""How much compression can shrink voxels.

If a header claims more voxels, it is wrong or the file is cut short. Readers check this before they
allocate memory.
"""

#: Deflate shrinks to 1/1032 at most (zlib.net/zlib_tech.html); a little is added.
MOST_DEFLATE = 1040
#: Any codec of DICOM or TIFF: even an empty scan shrinks less.
MOST_COMPRESSION = 10_000
