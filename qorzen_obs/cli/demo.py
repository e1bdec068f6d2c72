"""`qorzen-obs demo`: a workload to watch."""

from __future__ import annotations

from pathlib import Path

import click

from qorzen_obs.cli.hosting import host_settings, run_to_the_end
from qorzen_obs.cli.options import WrongUse, server_options
from qorzen_obs.demo.rounds import Workload, run_demo, standard_library


@click.command("demo")
@click.option(
    "--path",
    metavar="DIR",
    help="Read the Python files below this folder.  [default: the standard library, without installed packages]",
)
@click.option("--once", is_flag=True, help="Stop after one round, and print a summary.")
@click.option(
    "--trouble",
    is_flag=True,
    help="Also run a workload that hangs, blocks the loop, backs up a queue, fails, leaks memory and loses a worker.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary of each round as a line of JSON.")
@click.option(
    "--pause", type=float, default=5.0, metavar="SECONDS", show_default=True, help="Pause between rounds."
)
@server_options
def demo_command(
    path: str | None,
    once: bool,
    trouble: bool,
    as_json: bool,
    pause: float,
    host: str | None,
    port: int | None,
    config: Path | None,
) -> None:
    """Run a real workload to watch: read Python files.

    Each round reads, hashes and parses every file, in thousands of tasks of several categories and priorities. Tasks
    whose file cannot be parsed fail. The service has a live page, /metrics, /status, /health and traces. Ctrl-C stops
    it in order; a second Ctrl-C stops it at once.

    With --trouble a second workload goes wrong on purpose for about 15 seconds of each round, so that you can see how
    each problem shows. It uses up to 64 MiB more memory, and frees it again.

    With --once the summary compares the counts of /status with those of /metrics. The exit status is 1 if they differ.
    """
    if not pause >= 0:
        raise WrongUse(f"--pause {pause:g}: give 0 or more seconds")
    workload = _workload(path)
    # Submitting waits where the queue is full: a survey has no use for a refusal.
    settings, stores = host_settings(config, host, port, {"QORZEN_TASKS__WHEN_FULL": "wait"})
    went_well = run_to_the_end(
        run_demo(
            settings,
            workload,
            once=once,
            as_json=as_json,
            pause_seconds=pause,
            with_trouble=trouble,
            stores_by_default=stores,
        )
    )
    raise SystemExit(0 if went_well else 1)


def _workload(path: str | None) -> Workload:
    workload = standard_library() if path is None else Workload(Path(path))
    shown = click.format_filename(path) if path is not None else str(workload.folder)
    problem = None
    if path == "" or not workload.folder.exists():
        problem = "does not exist"
    elif not workload.folder.is_dir():
        problem = "is not a directory"
    else:
        try:
            if workload.is_empty():
                problem = "holds no Python files"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
    if problem:
        raise WrongUse(f"--path {shown!r} {problem}; give a directory with Python files")
    return workload
