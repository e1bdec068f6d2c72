"""`python -m tests.benchmarks` runs every benchmark, one after the other."""

from tests.benchmarks import processes, scheduler_cost, scrape_lag, task_cost

if __name__ == "__main__":  # the pools that stand beside ours import this module in their processes
    task_cost.main()
    print()
    scheduler_cost.main()
    print()
    processes.main()
    print()
    scrape_lag.main()
