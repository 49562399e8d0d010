"""Masks between annotated slices."""
