"""`python -m tests.benchmarks` runs every benchmark, one after the other."""

from tests.benchmarks import (
    bad_collector,
    ledger_cost,
    metrics_cost,
    processes,
    scheduler_cost,
    scrape_lag,
    streams,
    task_cost,
    wedged,
)

if __name__ == "__main__":  # the pools that stand beside ours import this module in their processes
    task_cost.main()
    print()
    ledger_cost.main()
    print()
    metrics_cost.main()
    print()
    scrape_lag.main()
    print()
    streams.main()
    print()
    wedged.main()
    print()
    bad_collector.main()
    print()
    scheduler_cost.main()
    print()
    processes.main()
