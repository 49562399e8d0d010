"""The widget Inspect."""
