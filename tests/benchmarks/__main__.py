"""`python -m tests.benchmarks` runs every benchmark, one after the other."""

from tests.benchmarks import task_cost

task_cost.main()
