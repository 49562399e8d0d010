"""Saving masks as one goes, when the window closes, and coming back to them."""
