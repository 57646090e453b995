"""Benchmarks: rows side by side in one run, as medians and ratios."""
