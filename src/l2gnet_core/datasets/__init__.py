"""Datasets: finding, checking and splitting their cases, and reading them for training."""
