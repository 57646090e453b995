"""Spectral normalization in GANs: the method, without tracking, run folders or argument parsing."""

__version__ = "0.2.0"
