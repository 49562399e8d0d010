"""Random views of the slices that a network learns from."""
