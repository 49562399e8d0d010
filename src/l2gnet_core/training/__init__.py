"""Training on a dataset."""
