"""The widget Segment."""
