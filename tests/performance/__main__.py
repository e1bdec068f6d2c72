"""`python -m tests.performance` counts the calls a task; with `--write` they become this Python's baseline."""

import sys

from tests.performance import baseline

counts = baseline.count_calls()
print(f"Calls a task on Python {baseline.VERSION}, fully observed, on the work loop's thread")
for scenario, calls in counts.items():
    print(f"{scenario:30} {calls['python']:7.1f} of Python functions {calls['c']:7.1f} of C functions")
if "--write" in sys.argv[1:]:
    baseline.write(counts)
