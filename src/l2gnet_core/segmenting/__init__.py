"""Segmenting scans slice by slice, and what is known of the slices: corrections and traces."""
