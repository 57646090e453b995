"""One command that shows on a CUDA machine without a network what is true there, and what it carries along."""
