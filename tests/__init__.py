"""The tests are a package, so that they share fixtures by import and `python -m tests.benchmarks` runs."""
