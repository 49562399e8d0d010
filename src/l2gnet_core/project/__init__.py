"""Annotation projects: what a person does to one mask of one scan, saved as it happens.

`folder` is the format on disk, `events` are the entries of its history, `replay` repeats them.
Patient names, file names and header text are never written. See docs/projects.md.
"""
