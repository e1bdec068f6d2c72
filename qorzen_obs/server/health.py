"""The probes /livez, /readyz and /startupz, and /health, which says more.

Each fact is one check. A probe fails when one of its checks does; /health fails exactly when one of the
probes does, and warns of what a restart would not fix: saturation, abandoned threads, telemetry that is lost. A slow
task fails none of them. The program's own checks stand beside these: critical ones in /readyz, all in /health.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final

from aiohttp import web
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.registry import Collector

from qorzen_obs.core.health_checks import UserCheck
from qorzen_obs.server.documents import Moment, json_response, now, timestamp
from qorzen_obs.server.health_history import (
    HISTORY,
    CheckPast,
    HealthChange,
    HealthHistory,
)
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.routes import Access, Answer, Handler, Parameter, Route, Tag
from qorzen_obs.server.sources import HEALTH, LOOKS, Looks
from qorzen_obs.server.ticker import TICKER
from qorzen_obs.settings import HealthSettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.families import gauge
from qorzen_obs.telemetry.watchdog import NOT_RUNNING

#: A loop that does not turn for this long is named, though it is not yet a failure.
BLOCKED_SHOWN_SECONDS: Final = 0.1
SATURATION_WARNS_AT: Final = 0.9  #: the share of `tasks.max_pending` from which /health is degraded


class Outcome(Enum):
    """What a check came to, as application/health+json has it."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, now."""

    outcome: Outcome
    output: str = ""  #: what is wrong, or worth knowing though all is well
    observed: float | str | None = None
    unit: str | None = None
    at: str | None = None  #: when that was, where it is not now


@dataclass(frozen=True, slots=True)
class Check:
    """One fact about the service."""

    name: str  #: in probes
    measurement: str  #: in /health, where several facts may belong to one component
    component: str
    look: Callable[[Looks, HealthSettings], Finding]

    @property
    def key(self) -> str:
        """Its name in /health."""
        return f"{self.component}:{self.measurement}"


def _look_at_ops_plane(looks: Looks, settings: HealthSettings) -> Finding:
    return Finding(Outcome.PASS)  # it is the one that answers


def _look_at_work_loop(looks: Looks, settings: HealthSettings) -> Finding:
    seconds = looks.blocked_seconds()
    if seconds < BLOCKED_SHOWN_SECONDS:
        return Finding(Outcome.PASS, observed=0.0, unit="s")
    outcome = Outcome.FAIL if seconds > settings.loop_blocked_seconds else Outcome.WARN
    return Finding(outcome, blocked_text(looks, seconds), round(seconds, 3), "s")


def blocked_text(looks: Looks, seconds: float) -> str:
    """Return for how long the work loop has been blocked, and by whom where the watchdog has seen it."""
    return f"blocked for {seconds:.1f} s{_culprit(looks)}"


def _culprit(looks: Looks) -> str:
    """Name who blocks the loop, by task and by line, where the watchdog has seen it."""
    block = looks.loop_block()
    if block is None:
        return ""
    if block.cause == NOT_RUNNING:
        return ", in which the process did not get to run"
    attempt = block.culprit.attempt
    who = block.name if attempt is None else f"task {attempt.name} ({attempt.task_id})"
    where = f", at {block.line}" if block.line else ""
    return " ".join(f" by {who}{where}".splitlines())


def _look_at_start(looks: Looks, settings: HealthSettings) -> Finding:
    # A manager that has ended was initialized all the same: startup probes look once, and never back.
    if looks.initialized or looks.state.value in ("draining", "stopped"):
        return Finding(Outcome.PASS)
    return Finding(Outcome.FAIL, "not initialized yet")


def _look_at_state(looks: Looks, settings: HealthSettings) -> Finding:
    state = looks.state.value
    if state == "ready" and looks.health.stopping:
        return Finding(
            Outcome.FAIL, "the service was told to stop, and its work loop has not heard of it", state
        )
    if state == "ready":
        return Finding(Outcome.PASS, observed=state)
    return Finding(Outcome.FAIL, f"the manager is {state} and takes no work", state)


def _look_at_scheduler(looks: Looks, settings: HealthSettings) -> Finding:
    seconds = round(looks.stalled_seconds(), 3)
    if seconds < settings.scheduler_stalled_seconds:
        return Finding(Outcome.PASS, observed=seconds, unit="s")
    problem = f"a task has waited for {seconds:.1f} s although nothing keeps it from starting"
    return Finding(Outcome.FAIL, problem, seconds, "s")


def _look_at_queue(looks: Looks, settings: HealthSettings) -> Finding:
    queue = looks.status()["queue"]
    waiting, limit = queue["depth"] + queue["scheduled"], queue["limit"]
    percent = round(100 * waiting / limit, 1)
    if waiting < SATURATION_WARNS_AT * limit:
        return Finding(Outcome.PASS, observed=percent, unit="percent")
    return Finding(Outcome.WARN, f"{waiting} of {limit} places are taken", percent, "percent")


def _look_at_abandoned(looks: Looks, settings: HealthSettings) -> Finding:
    abandoned = sum(engine["abandoned"] for engine in looks.status()["slots"].values())
    if not abandoned:
        return Finding(Outcome.PASS, observed=0)
    return Finding(Outcome.WARN, "tasks that would not stop still hold threads", abandoned)


def _look_at_telemetry(looks: Looks, settings: HealthSettings) -> Finding:
    trouble = looks.status()["telemetry"].get("trouble", ())  # a manager without exports has none
    return Finding(Outcome.WARN if trouble else Outcome.PASS, "; ".join(trouble))


def _look_at_history(looks: Looks, settings: HealthSettings) -> Finding:
    history = looks.status()["history"]
    trouble = history.get("trouble")
    if history["kind"] == "memory":  # as was asked for, or because no file could be used
        return Finding(Outcome.WARN if trouble else Outcome.PASS, trouble or "", observed="memory")
    if history["durable"]:
        return Finding(Outcome.PASS, history.get("warning") or "", observed="durable")
    waiting = f"{history.get('waiting', 0)} tasks wait for it"
    if history.get("when_broken") == "undurable":
        problem = f"a crash would lose what is accepted now, {waiting}"
        return Finding(Outcome.FAIL, f"{trouble or 'it is not written'}; {problem}", observed="undurable")
    problem = f"new tasks are refused, {waiting}"
    return Finding(Outcome.WARN, f"{trouble or 'it is not written'}; {problem}", observed="refusing")


OPS_PLANE: Final = Check("ops-plane", "responding", "ops-plane", _look_at_ops_plane)
WORK_LOOP: Final = Check("work-loop", "blocked", "work-loop", _look_at_work_loop)
INITIALIZED: Final = Check("initialized", "initialized", "manager", _look_at_start)
ACCEPTING: Final = Check("accepting", "state", "manager", _look_at_state)
SCHEDULER: Final = Check("scheduler", "stalled", "scheduler", _look_at_scheduler)
QUEUE: Final = Check("queue", "saturation", "queue", _look_at_queue)
ABANDONED: Final = Check("abandoned", "abandoned", "tasks", _look_at_abandoned)
TELEMETRY: Final = Check("telemetry", "export", "telemetry", _look_at_telemetry)
DURABLE: Final = Check("history", "durable", "history", _look_at_history)

LIVEZ: Final = "livez"
READYZ: Final = "readyz"
STARTUPZ: Final = "startupz"
#: The probe label, in the metrics, of the checks that belong to no probe and only degrade /health.
WARNING: Final = "health"
_MEANINGS: Final = {
    LIVEZ: "the service answers and its work loop turns",
    READYZ: "the service takes work",
    STARTUPZ: "the service has started",
}
HEALTH_JSON: Final = "application/health+json"

PROBES: Final[Mapping[str, tuple[Check, ...]]] = {
    LIVEZ: (OPS_PLANE, WORK_LOOP),
    READYZ: (INITIALIZED, ACCEPTING, WORK_LOOP, SCHEDULER, DURABLE),
    STARTUPZ: (INITIALIZED,),
    WARNING: (QUEUE, ABANDONED, TELEMETRY),
}
HEALTH_CHECKS: Final = tuple(dict.fromkeys(check for checks in PROBES.values() for check in checks))


class HealthCollector(Collector):
    """All checks as metrics, looked at when they are scraped; of the program's own the last result."""

    def __init__(self, looks: Looks, settings: HealthSettings) -> None:
        self._looks = looks
        self._settings = settings

    def describe(self) -> Iterator[Metric]:
        """Tell the registry the name without looking."""
        yield gauge(names.HEALTH_CHECK)

    def collect(self) -> Iterator[Metric]:
        family = gauge(names.HEALTH_CHECK)
        for probe, checks in PROBES.items():
            failing = Outcome.WARN if probe == WARNING else Outcome.FAIL
            for check in checks:
                outcome = check.look(self._looks, self._settings).outcome
                family.add_metric((probe, check.name), float(outcome is not failing))
        for own in self._looks.health:
            own.begin()  # a scrape does not wait for it: the next one has the result
            result = own.result()
            if result is not None:
                family.add_metric((READYZ if own.critical else WARNING, own.name), float(result.passed))
        yield family


def _probe(probe: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        """Answer 200 `ok`, or 503; with ?verbose a line for each check.

        An ?exclude that names no check is passed over: a typing error must not restart a service.
        """
        looks = request.app[LOOKS]
        checks: list[Check | UserCheck] = [*PROBES[probe]]
        if probe == READYZ:
            checks += [check for check in looks.health if check.critical]
        if (name := request.match_info.get("check")) is not None:
            known = ", ".join(check.name for check in checks)
            checks = [check for check in checks if check.name == name]
            if not checks:
                raise ProblemError(HTTPStatus.NOT_FOUND, f"this probe has no such check; it has {known}")
        excluded = request.query.getall("exclude", [])
        findings = await _look_at([check for check in checks if check.name not in excluded], request)
        failed = [check.name for check, finding in findings if finding.outcome is Outcome.FAIL]
        if "verbose" in request.query:
            text = "".join(f"{_line(check, finding)}\n" for check, finding in findings)
        else:
            text = f"failed: {', '.join(failed)}" if failed else "ok"
        return web.Response(text=text, status=HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK)

    return answer


async def _look_at(
    checks: Sequence[Check | UserCheck], request: web.Request
) -> list[tuple[Check | UserCheck, Finding]]:
    """Return what each check finds; the program's own are waited for side by side, each up to its timeout."""
    looks, settings = request.app[LOOKS], request.app[HEALTH]
    await asyncio.gather(*(check.refresh() for check in checks if isinstance(check, UserCheck)))
    found = [
        (check, _last_result_of(check) if isinstance(check, UserCheck) else check.look(looks, settings))
        for check in checks
    ]
    findings = [(check, finding) for check, finding in found if finding is not None]
    _note(request.app[HISTORY], findings)
    return findings


def _last_result_of(check: UserCheck) -> Finding | None:
    result = check.result()
    if result is None:
        return None
    failing = Outcome.FAIL if check.critical else Outcome.WARN
    outcome = Outcome.PASS if result.passed else failing
    return Finding(outcome, result.output, round(result.seconds, 6), "s", timestamp(result.at))


def _note(history: HealthHistory, findings: Sequence[tuple[Check | UserCheck, Finding]]) -> None:
    at = now()
    for check, finding in findings:
        change = HealthChange(at=finding.at or at, status=finding.outcome.value, output=finding.output)
        history.note(check.name, _probe_of(check), change)


def _probe_of(check: Check | UserCheck) -> str:
    if isinstance(check, UserCheck):
        return READYZ if check.critical else WARNING
    return next(probe for probe, checks in PROBES.items() if check in checks)


def set_up_history(app: web.Application) -> None:
    """Let an application with a manager and a ticker remember how its checks changed.

    On a tick no check of the program's own is run: of those the last result counts, where somebody has asked. Before
    the manager has started nothing is noted: that takes milliseconds, and would stand there as ten seconds of failure.
    """
    history, looks, settings = HealthHistory(), app[LOOKS], app[HEALTH]
    app[HISTORY] = history

    def note() -> None:
        if looks.state.value in ("new", "starting"):
            return
        found: list[tuple[Check | UserCheck, Finding]]
        found = [(check, check.look(looks, settings)) for check in HEALTH_CHECKS]
        found += [(own, last) for own in looks.health if (last := _last_result_of(own)) is not None]
        _note(history, found)

    app[TICKER].add(note)


def _line(check: Check | UserCheck, finding: Finding) -> str:
    if finding.outcome is Outcome.FAIL:
        return f"[-]{check.name} failed: {finding.output}"
    return f"[+]{check.name} ok" + (f": {finding.output}" if finding.output else "")


class Measured(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What one check found."""

    status: Outcome
    observed_value: float | str | None = None
    observed_unit: str | None = None
    output: str | None = None
    time: Moment


class Health(Struct, frozen=True, kw_only=True):
    """The worst that the checks found, and each of them by what it measures."""

    status: Outcome
    checks: dict[str, list[Measured]]


async def get_health(request: web.Request) -> web.Response:
    """Answer with every check (https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check)."""
    at = now()
    findings = await _look_at([*HEALTH_CHECKS, *request.app[LOOKS].health], request)
    worst = max((finding.outcome for _, finding in findings), key=list(Outcome).index)
    document = Health(
        status=worst,
        checks={
            check.key if isinstance(check, Check) else check.name: [_describe(finding, at)]
            for check, finding in findings
        },
    )
    status = HTTPStatus.SERVICE_UNAVAILABLE if worst is Outcome.FAIL else HTTPStatus.OK
    return json_response(document, content_type=HEALTH_JSON, status=status)


def _describe(finding: Finding, at: str) -> Measured:
    return Measured(
        status=finding.outcome,
        observed_value=finding.observed,
        observed_unit=finding.unit,
        output=finding.output or None,
        time=finding.at or at,
    )


class HealthPast(Struct, frozen=True, kw_only=True):
    """Every check with what it came to since the start."""

    checks: list[CheckPast]
    at: Moment


async def get_health_history(request: web.Request) -> web.Response:
    """Answer with how every check stands now and when it changed; whatever stands there, the status is 200."""
    at = now()
    await _look_at([*HEALTH_CHECKS, *request.app[LOOKS].health], request)
    return json_response(HealthPast(checks=request.app[HISTORY].read(), at=at))


_PROBE_ANSWERS: Final = {
    200: Answer("It passes.", media_types=("text/plain",)),
    503: Answer("A check fails: its name, or with `verbose` a line of each.", media_types=("text/plain",)),
}
_PROBE_PARAMETERS: Final = (
    Parameter("verbose", str, "Whatever it says: a line of each check. Needs a token where one is set."),
    Parameter("exclude", list[str], "Checks that are left out."),
)

ROUTES: Final = (
    *(
        route
        for path, probe in (
            ("/livez", LIVEZ),
            ("/healthz", LIVEZ),
            ("/readyz", READYZ),
            ("/startupz", STARTUPZ),
        )
        for route in (
            Route(
                path,
                _probe(probe),
                Access.PROBE,
                summary=f"Whether {_MEANINGS[probe]}.",
                tag=Tag.HEALTH,
                description="Answers `ok` with 200, or 503 and which checks fail. `verbose` gives a line of each "
                "check. An `exclude` that names no check is ignored.",
                parameters=_PROBE_PARAMETERS,
                answers=_PROBE_ANSWERS,
            ),
            Route(
                path + "/{check}",
                _probe(probe),
                Access.PROBE,
                summary=f"One check of whether {_MEANINGS[probe]}.",
                tag=Tag.HEALTH,
                description="As the whole probe, for the check of this name only.",
                parameters=_PROBE_PARAMETERS,
                answers={**_PROBE_ANSWERS, 404: problem("The probe has no such check.")},
            ),
        )
    ),
    Route(
        "/health",
        get_health,
        Access.READ,
        summary="Every check, for people and tools.",
        tag=Tag.HEALTH,
        description="The checks of all probes, those of the program, and what only warns: saturation, abandoned "
        "threads, telemetry that does not arrive. The status is 503 when a probe fails.",
        answers={
            200: Answer("None fails; some may warn.", Health, (HEALTH_JSON,)),
            503: Answer("One fails, and so does a probe.", Health, (HEALTH_JSON,)),
        },
    ),
    Route(
        "/api/health/history",
        get_health_history,
        Access.READ,
        summary="How every check stands, and when it changed.",
        tag=Tag.HEALTH,
        description="The last changes of each check since the start. The status is 200 whatever the checks say.",
        answers={200: Answer("Each with its last changes.", HealthPast)},
    ),
)
