"""One table of what can go wrong with a run: 171 faults, tried by tests/test_faults.py and benchmarks/reliability.py."""
