"""The table of what can go wrong with a run; tests/test_faults_of_*.py try it, benchmarks/reliability.py scores it."""
