"""Training: one loop, whoever launches it and however many processes share the model."""
