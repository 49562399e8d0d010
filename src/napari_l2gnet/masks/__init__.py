"""A mask: the model's answer, a person's strokes, undo, and the Labels layer that shows it."""
