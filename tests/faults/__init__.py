"""The table of what can go wrong with a run: tried by tests/test_faults.py, scored by benchmarks/reliability.py."""
