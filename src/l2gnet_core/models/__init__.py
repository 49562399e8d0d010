"""Models on disk: their files, their cards, and which ones are there."""
