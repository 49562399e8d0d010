"""Fine-tuning a model on a person's corrections."""
