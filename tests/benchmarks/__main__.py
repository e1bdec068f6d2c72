"""`python -m tests.benchmarks` prints the table of goals; `--only NAME` runs one of the other benchmarks instead."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

from tests.benchmarks import table

OTHERS: Final = (
    "ledger_cost",
    "listing_cost",
    "metrics_cost",
    "scheduler_cost",
    "scrape_lag",
    "streams",
    "wedged",
    "bad_collector",
    "batches",
    "memory",
    "page",
    "processes",
)


def main() -> None:
    """Run what the command line asks for; the table has options of its own."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", choices=("table", *OTHERS), default="table")
    asked, rest = parser.parse_known_args()
    if asked.only == "table":
        table.main(rest)
    elif rest:
        sys.exit(f"{asked.only} has no options; it was given {' '.join(rest)}")
    else:
        importlib.import_module(f"tests.benchmarks.{asked.only}").main()


if __name__ == "__main__":  # the pools that stand beside ours import this module in their processes
    main()
