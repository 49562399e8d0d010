"""Annotation projects: what a person does to one mask of one scan, kept in a folder as it happens.

`folder` is the format on disk, `events` the history in it, `replay` does that again. No patient's
name, file name or header text is ever written; docs/projects.md tells the whole.
"""
