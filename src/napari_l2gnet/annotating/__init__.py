"""Correcting a mask: what a person did, what the model learnt from it, what it proposes."""
