"""One table of what can go wrong: 171 faults, tried by tests/test_faults.py and benchmarks/reliability.py."""
