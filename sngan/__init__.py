"""Spectral normalization in GANs: the method, without tracking, run folders or argument parsing."""
