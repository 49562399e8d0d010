"""How well masks agree with references."""
