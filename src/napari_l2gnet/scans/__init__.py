"""Scans and masks on disk and as napari layers: where they lie, and which way is up."""
