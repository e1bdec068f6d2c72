"""`python -m tests.benchmarks.measure NAME TIMES` takes one measurement and prints it as JSON.

Each has a process of its own: what one variant imports, patches, sets globally or leaves on the heap is not there in
the next, and the peers need not be installed where only the others are run.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from tests.benchmarks.script import Measured

WARM_UP: Final = 500
_TIMEOUT_SECONDS: Final = 1_800  # a million tasks take minutes; more is a peer that hangs


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured: a function of this package, and how often it does its work."""

    title: str
    function: str  #: `module.name`, imported where it runs
    times: int
    unit: str = "µs"
    most_rounds: int = 1_000  #: for one that takes minutes


#: By the names that goals.py compares. In each round they take turns in this order, so that those which are compared
#: stand near each other.
MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    "bare": Measurement("asyncio.create_task alone", "plain.bare", 20_000),
    "straightforward": Measurement("the straightforward implementation", "plain.straightforward", 20_000),
    "full": Measurement("ours, full observation", "ours.full", 20_000),
    "full_subscribed": Measurement("ours, full, a subscriber of all events", "ours.full_subscribed", 20_000),
    "full_all_kept": Measurement("ours, full, every trace kept", "ours.full_all_kept", 20_000),
    "unobserved": Measurement("ours, nothing observed", "ours.unobserved", 20_000),
    "metrics": Measurement("ours, metrics only", "ours.metrics", 20_000),
    "metrics_spans": Measurement("ours, metrics and spans", "ours.metrics_and_spans", 20_000),
    "metrics_log": Measurement("ours, metrics and log line", "ours.metrics_and_log", 20_000),
    "metrics_ledger": Measurement("ours, metrics and time ledger", "ours.metrics_and_ledger", 20_000),
    "metrics_definitions": Measurement(
        "ours, metrics by definition as well", "ours.metrics_and_definitions", 20_000
    ),
    "taskiq_opentelemetry": Measurement("taskiq + OpenTelemetry", "peers.taskiq_opentelemetry", 20_000),
    "taskiq_prometheus": Measurement("taskiq + Prometheus", "peers.taskiq_prometheus", 20_000),
    "aiojobs": Measurement("aiojobs, nothing observed", "peers.aiojobs", 20_000),
    "celery": Measurement("Celery in memory + OpenTelemetry", "peers.celery", 2_000),
    "executor": Measurement("run_in_executor alone, awaited", "plain.executor", 20_000),
    "threads": Measurement("ours, sync on worker threads, full, awaited", "ours.threads", 20_000),
    "drain": Measurement("ours, drain of 10 thousand, full", "ours.drain", 10_000),
    "drain_million": Measurement("ours, drain of a million, full", "ours.drain", 1_000_000, most_rounds=1),
    "scrape": Measurement("ours, a scrape", "scrape.ours", 50, "ms"),
    "scrape_client": Measurement("generate_latest of plain client objects", "scrape.client", 50, "ms"),
    "spans_lost": Measurement("ours, spans without an outcome", "full_load.spans_lost", 20_000, ""),
    "lag_alone": Measurement("ours, loop lag p99 at full load", "full_load.lag_alone", 20_000, "ms"),
    "lag_watched": Measurement("the same, watched and exported", "full_load.lag_watched", 20_000, "ms"),
    "lag_all_kept": Measurement(
        "the same, every trace kept and exported", "full_load.lag_all_kept", 20_000, "ms"
    ),
}


class MeasurementFailedError(Exception):
    """A measurement did not end well; what it wrote is in the message."""


def measure(name: str, times: int) -> Measured:
    """Take a measurement in this process, after a short run that warms the interpreter up."""
    module, _, function = MEASUREMENTS[name].function.rpartition(".")
    run: Callable[[int], Awaitable[Measured]]
    run = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)
    asyncio.run(_awaited(run, min(WARM_UP, times)))
    return asyncio.run(_awaited(run, times))


async def _awaited(run: Callable[[int], Awaitable[Measured]], times: int) -> Measured:
    return await run(times)


def measure_apart(name: str, times: int) -> Measured:
    """Take a measurement in a process of its own.

    Raises:
        MeasurementFailedError: it did not end well.
    """
    command = [sys.executable, "-m", __name__, name, str(times)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise MeasurementFailedError(f"{name} did not end within {_TIMEOUT_SECONDS} s") from error
    if ended.returncode:
        raise MeasurementFailedError(f"{name}: {ended.stdout}{ended.stderr}")
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], int(sys.argv[2])))))
