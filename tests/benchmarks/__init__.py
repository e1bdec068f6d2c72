"""Benchmarks: ratios taken in one run. `make bench` prints them; the test suite does not time anything."""
