"""Runtime: who holds the loop, and what the process needs."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import library
from dashboards.board import RUNTIME, Row, board
from dashboards.overview import loop_blocked
from dashboards.panels import BAD, CULPRITS, GOOD, WARN, Query, heat, stat, timeseries
from dashboards.promql import counted, now, per_second, quantile, select, share
from qorzen_obs.telemetry import names


def runtime() -> Dashboard:
    """Return the dashboard."""
    return board(RUNTIME, [_state(), _loop(), _process(), _collector(), _http(), _scrape()], narrowed=False)


def _busy(*by: str) -> str:
    return per_second(names.PHASE_SECONDS, *by, wide=True, phase="loop")


def _state() -> Row:
    files = share(select(library.PROCESS_FILES), select(library.PROCESS_FILES_LIMIT))
    return Row(
        "Worst instance",
        [
            stat(
                "Loop lag p99",
                "A timer of the work loop ran no later than this in 99 % of its turns. All async work waits as long.",
                f"max({quantile(0.99, names.LOOP_LAG, 'job', 'instance')})",
                unit="s",
                steps=((None, GOOD), (0.1, WARN), (0.5, BAD)),
                no_value="No loop is watched",
            ),
            stat(
                "Loop blocked",
                "Share of time in which the work loop did not turn. Next: Who blocks the loop.",
                loop_blocked(),
                unit="percentunit",
                decimals=1,
                steps=((None, GOOD), (0.01, WARN), (0.1, BAD)),
                no_value="No loop is watched",
            ),
            stat(
                "Loop busy",
                "Share of time in which the work loop ran code of tasks, cut off at 100 %. The time of a task arrives "
                "when its attempt ends, all at once: while a long one runs this is too low, then too high.",
                f"clamp_max(max({_busy('job', 'instance')}), 1)",
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.7, WARN)),
                no_value="The time ledger is off",
            ),
            stat(
                "Processors in use",
                "Processor seconds a second of the service's own process; worker processes come on top.",
                f"max({per_second(library.PROCESS_CPU, 'job', 'instance')})",
                unit="none",
                decimals=2,
            ),
            stat(
                "Resident memory",
                "Memory of the service's own process.",
                now(library.PROCESS_MEMORY, aggregate="max"),
                unit="bytes",
            ),
            stat(
                "Open files",
                "File descriptors in use, of what the system allows.",
                f"max({files})",
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.7, WARN), (0.9, BAD)),
            ),
        ],
    )


def _loop() -> Row:
    lags = [Query(quantile(q, names.LOOP_LAG), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]
    return Row(
        "Event loop",
        [
            timeseries(
                "Loop lag",
                "How late the work loop ran a timer that is due every 100 ms. A blocked loop runs none, so one long "
                "block is one late timer: look at Who blocks the loop too.",
                *lags,
                unit="s",
                no_value="No loop is watched",
            ),
            timeseries(
                "Who blocks the loop",
                "Seconds a second in which the loop did not turn, by the category of the task that held it. `foreign` "
                "is code of no task, `gc` the garbage collector, `gil_held` code that let no Python run, `not_running` "
                "a process that was stopped or had no processor. The log event `loop.blocked` has the stack, "
                "`/livez?verbose` the culprit while it blocks.",
                Query(counted(names.LOOP_BLOCKED, "category"), "{{category}}"),
                unit="percentunit",
                stacked=True,
                no_value="Nothing blocked the loop, or no loop is watched",
                calcs=("mean", "max"),
                colours=CULPRITS,
            ),
            timeseries(
                "Loop busy by category",
                "Share of time in which the work loop ran code of tasks, as their time ledgers have it. The time of a "
                "task arrives when its attempt ends, all at once: a long one is 0 until then, and may go over 100 % "
                "there.",
                Query(_busy("category"), "{{category}}"),
                unit="percentunit",
                stacked=True,
                no_value="The time ledger is off",
            ),
            heat(
                "Loop lag by size",
                "How many timers a second were how late. A second band is something that blocks now and then.",
                Query(per_second(names.LOOP_LAG, "le", part="bucket"), "{{le}}"),
                no_value="No loop is watched",
                width=24,
            ),
        ],
    )


def _process() -> Row:
    return Row(
        "Process",
        [
            timeseries(
                "Processors in use by instance",
                "Processor seconds a second of the service's own process. At 1 the interpreter is the bound: threads "
                'do not help, `@task(engine="process")` does.',
                Query(per_second(library.PROCESS_CPU, "instance"), "{{instance}}"),
                unit="none",
            ),
            timeseries(
                "Resident memory by instance",
                "Memory of the service's own process.",
                Query(now(library.PROCESS_MEMORY, "instance"), "{{instance}}"),
                unit="bytes",
            ),
            timeseries(
                "Open files by instance",
                "File descriptors in use. One that only rises is a leak.",
                Query(now(library.PROCESS_FILES, "instance"), "{{instance}}"),
                unit="none",
            ),
        ],
    )


def _collector() -> Row:
    return Row(
        "Garbage collection",
        [
            timeseries(
                "Collections by generation",
                "Runs a second of Python's garbage collector. Generation 2 is the one that is felt, as `gc` in Who "
                "blocks the loop.",
                Query(per_second(library.GC_COLLECTIONS, "generation"), "generation {{generation}}"),
                unit="ops",
            ),
            timeseries(
                "Objects collected",
                "Objects a second that were freed as parts of cycles.",
                Query(per_second(library.GC_COLLECTED, "generation"), "generation {{generation}}"),
                unit="ops",
            ),
            timeseries(
                "Objects not collectable",
                "Objects a second that could not be freed. Anything but 0 is a leak.",
                Query(per_second(library.GC_UNCOLLECTABLE, "generation"), "generation {{generation}}"),
                unit="ops",
            ),
        ],
    )


def _http() -> Row:
    return Row(
        "HTTP of the ops plane",
        [
            timeseries(
                "Requests by route",
                "Requests a second, the ten most frequent routes.",
                Query(f"topk(10, {per_second(names.HTTP_DURATION, 'route', part='count')})", "{{route}}"),
                unit="reqps",
                width=6,
                no_value="No request",
            ),
            timeseries(
                "Request duration p95 by route",
                "95 % of answers took no longer. The ops plane has a thread of its own, but it shares the "
                "interpreter.",
                Query(quantile(0.95, names.HTTP_DURATION, "route"), "{{route}}"),
                unit="s",
                width=6,
                no_value="No request",
            ),
            timeseries(
                "Errors by code",
                "Answers of 400 and above a second. 503 of a probe is its way to say no; 401 and 421 are callers to "
                "fix.",
                Query(per_second(names.HTTP_DURATION, "code", part="count", code="~[45].."), "{{code}}"),
                unit="reqps",
                width=6,
                no_value="No error",
            ),
            timeseries(
                "Event streams",
                "Pages and scripts that follow the tasks, and how many a second were cut off because they did not "
                "read.",
                Query(now(names.HTTP_STREAMS, "instance"), "{{instance}}"),
                Query(per_second(names.HTTP_STREAMS_EVICTED), "cut off a second"),
                unit="short",
                width=6,
            ),
        ],
    )


def _scrape() -> Row:
    return Row(
        "Cost of a scrape",
        [
            timeseries(
                "Scrape duration by instance",
                "How long Prometheus waited for the metrics, rendering included.",
                Query(now(library.SCRAPE_DURATION, "instance", aggregate="max"), "{{instance}}"),
                unit="s",
            ),
            timeseries(
                "Samples by instance",
                "Samples in a scrape; a scrape that failed has none. Labels are closed or capped, so this is flat "
                "after a while.",
                Query(now(library.SCRAPE_SAMPLES, "instance", then="> 0"), "{{instance}}"),
                unit="short",
            ),
            timeseries(
                "Rendering p95",
                "95 % of answers with metrics took no longer in the service itself.",
                Query(quantile(0.95, names.HTTP_DURATION, route="/metrics"), "/metrics"),
                unit="s",
                no_value="No scrape was answered",
            ),
        ],
    )
