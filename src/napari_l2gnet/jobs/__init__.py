"""Background work: the thread that does it, the models in memory, and the time left."""
