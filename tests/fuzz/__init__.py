"""Inputs that nobody wrote, for every reader: tests/test_fuzz.py tries some, benchmarks/fuzz.py many."""
