"""Measurements, each a command of its own that prints its table: `python -m benchmarks.<name>`."""
