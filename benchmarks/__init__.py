"""Measurements of this project, run from a checkout: `python -m benchmarks.engine` and the like. Not installed."""
