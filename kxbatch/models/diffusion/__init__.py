"""Diffusion models: networks that see noise in data, their loss, and the folder a trained one is kept in."""
