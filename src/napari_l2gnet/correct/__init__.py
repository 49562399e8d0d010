"""The widget Correct & fine-tune."""
