"""The table of what can go wrong with a run: tried by tests/test_faults_of_*.py, scored by benchmarks/reliability.py."""
