"""Annotation projects: what a person does to one mask of one scan, saved as it happens.

`folder` is the format on disk, `events` are what its history notes, `entries` the lines of it, and
`replay` repeats them.
Patient names, file names and header text are never written. See docs/projects.md.
"""
