"""What must hold whenever nothing moves: the manager's own words against the model's (docs/faults.md, D)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.metrics import DROP_KINDS, REJECTION_REASONS
from tests.model.model import EPSILON, Life, Model

if TYPE_CHECKING:
    from tests.model.world import World

CATEGORIES = {category.value for category in TaskCategory}
PRIORITIES = {priority.label for priority in TaskPriority}
LABELS: dict[str, set[str]] = {
    "category": CATEGORIES,
    "priority": PRIORITIES,
    "status": {status.value for status in TaskStatus},
    "engine": {kind.value for kind in EngineKind},
    "reason": set(REJECTION_REASONS),
    "kind": set(DROP_KINDS),
    "label": {"error_type", "definition"},
    "outcome": set(names.ATTEMPT_OUTCOMES),
    "phase": set(names.PHASES),
    "error_type": {
        "timeout",
        "tests.model.actors.BoomError",
        "OSError",
        "SystemExit",
        "asyncio.exceptions.CancelledError",
        "qorzen_obs.errors.TaskCancelled",
        "qorzen_obs.errors.RetryLater",
    },
}
FREE_LABELS = {"le", "version", "python", "qorzen_service_state", "component", "definition"}


class Rest:
    """The checks of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model: Model = world.model
        self.last_ends = 0
        self.last_counters: dict[Any, float] = {}
        self.last_held: dict[str, float] = {}

    def expect(self, condition: object, problem: str) -> None:
        self.model.expect(condition, problem)

    def same(self, what: str, seen: object, expected: object) -> None:
        if seen != expected:
            self.expect(False, f"{what} is {seen}, not {expected}")

    def check(self) -> None:
        """Everything that is cheap enough for each moment of rest."""
        status = self.world.manager.status()
        self._counts(status["tasks"])
        self._queue(status["queue"])
        self._slots(status["slots"])
        self._no_idle_slot()
        self._clocks()
        self._spans()
        self._waiters()
        self._live_tasks()
        self._tables()
        self.model.sure_lent = {life.actor.number for life in self.model.running if life.lent}
        self.model.ends_since_rest = 0
        self.model.highest_limits = dict(self.model.definition_limits)

    def _counts(self, tasks: dict[str, Any]) -> None:
        """D3 and D4: the numbers of `status()` are those of the folded stream."""
        lives = self.model.lives.values()
        by_status = Counter(life.final.status.value if life.final else life.status.value for life in lives)
        self.same("D3: total", tasks["total"], len(lives))
        self.same("D3: by_status", +Counter(tasks["by_status"]), by_status)
        self.same(
            "D3: by_category", +Counter(tasks["by_category"]), Counter(x.plan.category.value for x in lives)
        )
        self.same(
            "D3: by_priority", +Counter(tasks["by_priority"]), Counter(x.plan.priority.label for x in lives)
        )
        self.expect(min(tasks["by_status"].values()) >= 0, f"D4: {tasks['by_status']} is below 0")
        self.same("D1: rejected", tasks["rejected"], self.model.rejected.total())
        self.same("D27: retained", tasks["retained"], len(self.model.retained))
        known = [*self.model.live, *self.model.retained]
        plugins = {life.plan.plugin_id for life in known if life.plan.plugin_id is not None}
        self.same("D27: plugins_with_tasks", tasks["plugins_with_tasks"], len(plugins))

    def _tables(self) -> None:
        """F38: the manager has found no tables of its own that disagree."""
        found = self.world.manager.looks.metrics.telemetry_errors["consistency"]
        self.same("F38: disagreements", found, 0)

    def _queue(self, queue: dict[str, Any]) -> None:
        now, pending = self.model.now(), self.model.pending
        self.same("D3: paused", set(queue["paused"]), {category.value for category in self.model.paused})
        self.same("D3: waiting", queue["depth"] + queue["scheduled"], len(pending))
        if any(abs(life.eligible_at - now) < EPSILON and life.actor.delay for life in pending):
            return  # one rounding away from either side
        waiting = [life for life in pending if life.eligible_at <= now + EPSILON]
        self.same("D3: depth", queue["depth"], len(waiting))
        age = max((now - life.eligible_at for life in waiting), default=0.0)
        self.expect(
            abs(queue["oldest_pending_age_seconds"] - age) < EPSILON, f"D3: oldest pending, {age}: {queue}"
        )

    def _slots(self, slots: dict[str, Any]) -> None:
        """D5: slots held, lent and abandoned, each counted once."""
        self._resolve_what_is_unsure()
        held = self.model.held()
        lenders = [life for life in self.model.running if life.lent]
        lenders += [life for life in self.model.abandoned if life.keeps_slot and life.lent]
        lent = Counter(life.plan.engine for life in lenders)
        abandoned = Counter(life.plan.engine for life in self.model.abandoned)
        for kind in (EngineKind.LOOP, EngineKind.IO, EngineKind.THREAD, EngineKind.MAIN):
            limit = self.model.engine_slots.get(kind, self.model.settings["max_concurrent_tasks"])
            expected = {
                "limit": limit,
                "busy": held.engines[kind],
                "lent": lent[kind],
                "abandoned": abandoned[kind],
            }
            self.same(f"D5: slots of {kind.value}", slots[kind.value], expected)
        now_held: dict[str, float] = {}
        highest = {f"definition {name}": n for name, n in self.model.highest_limits.items()}
        for life in [*self.model.running, *self.model.abandoned]:
            for name, n in held.of(life.plan):
                now_held[name] = n
                limit = self.model.limit(name, life.plan)
                allowed = max(limit, self.last_held.get(name, 0), highest.get(name, 0))
                self.expect(n <= allowed, f"D5: {n} slots of {name}")
        self.last_held = now_held

    def _resolve_what_is_unsure(self) -> None:
        """Ask the manager, where a wait ended and a stop was asked for at one instant, which of them came first."""
        lenders = self.world.manager._lifecycle._scheduler._lenders
        for life in self.model.running:
            if life.unsure and life.lent and self.model.asks_of(life):
                life.show_lent(life.order + 1 in lenders)
            life.unsure = False

    def _no_idle_slot(self) -> None:
        """D6: what could run does."""
        held = self.model.held()
        for life in self.model.pending:
            if life.eligible_at < self.model.now() - EPSILON or life.eligible_at == life.accepted_at:
                self.expect(not self.model.may_start(life.plan, held), f"D6: {life.actor} could start")
            self.expect(
                not self.model.cannot_start(life),
                f"D23: {life.actor} cannot start any more, and holds up the shutdown",
            )
            if life.ends_with is not None:
                self.expect(
                    life.ends_with.final is None, f"D23: {life.actor} waits, and its parent has ended"
                )
        for life in self.model.running:
            if self.model.returning(life):
                self.expect(
                    not self.model.admits(life.plan, held), f"D6: {life.actor} could have its slot back"
                )

    def _clocks(self) -> None:
        """D12 and D25: nothing outlives its deadline or its grace."""
        past = self.model.now() - EPSILON
        grace = self.model.settings["cancel_grace_seconds"]
        for life in self.model.live:
            if life.actor.deadline is not None and life.status is TaskStatus.PENDING:
                self.expect(
                    life.accepted_at + life.actor.deadline > past, f"D12: {life.actor} is past its deadline"
                )
            if life.status is TaskStatus.RUNNING:
                asks = self.model.asks_of(life)
                if asks and asks[0].at < past:
                    self.expect(asks[0].at + grace > past, f"D12: {life.actor} runs past its grace")
                if life.show is not None:
                    self._token(life, bool(asks))

    def _token(self, life: Life, asked: bool) -> None:
        show = life.show
        assert show is not None
        self.expect(show.task.cancelled == asked, f"D12: the token of {life.actor} says {not asked}")
        if show.interrupted_at is not None:
            self.expect(asked, f"D12: {life.actor} was interrupted, and nobody asked")
        elif asked and not life.plan.sync and (not show.targets or self.model.waits_for_nobody(life)):
            self.expect(False, f"D12: {life.actor} was not interrupted")

    def _spans(self) -> None:
        """D15: exactly the running attempts have an open span."""
        unended = [span for span in self.model.spans.spans if span.ends == 0 and span.name != "the caller"]
        open_spans = Counter(str(span.attributes.get("qorzen.task.id")) for span in unended)
        self.same("D15: open spans", open_spans, Counter(life.task_id for life in self.model.running))

    def _waiters(self) -> None:
        """D22 and D25: whoever waits is released when it is time."""
        for waiter in self.world.waiters:
            self.expect(self.world.waiter_is_right(waiter), f"D25: {waiter}")
        self.world.forget_waiters()
        for actor, task in self.world.submissions:
            if task.done() and task.exception() is not None:
                self.expect(False, f"D26: submitting {actor} raised {task.exception()!r}")
        self.world.submissions = [(actor, task) for actor, task in self.world.submissions if not task.done()]
        if self.world.submissions and not self._a_task_waits_for_room():
            self.same("D22: submitters wait because", self.model.accepts(), "queue_full")

    def _a_task_waits_for_room(self) -> bool:
        targets = [target for life in self.model.running if life.show for target in life.show.targets]
        targets += [waiter.target for waiter in self.world.waiters]
        return any(target.task_id is None for target in targets)

    def _live_tasks(self) -> None:
        """D27: what lives is found, whole."""
        for life in self.model.live:
            info = self.world.manager.find(life.task_id)
            if info is None or info.evicted:
                self.expect(False, f"D27: {life.actor} lives and was forgotten")
                continue
            self.same(f"D3: {life.actor}", (info.status, info.attempt), (life.status, life.attempt))

    # ------------------------------------------------------------------ now and then

    def look_closely(self) -> None:
        """What costs more: the history, the bus and the log."""
        self._history()
        events = [
            (event.event_type, event.payload["task_id"]) for event in self.world.telemetry.events.events
        ]
        self.same("D20: the bus", events, self.model.stream)
        self._log()

    def _history(self) -> None:
        manager = self.world.manager
        found = {record.task_id for record in manager.looks.records()}
        kept = {life.task_id for life in (*self.model.live, *self.model.retained)}
        self.same("D27: what is kept", found, kept)
        for life in self.model.ended:
            info, final = manager.find(life.task_id), life.final
            assert final is not None
            if info is None:
                self.expect(False, f"D27: {life.actor} was forgotten altogether")
            elif life in self.model.retained:
                code_ended = final.abandoned and life not in self.model.abandoned
                self.same(f"the code of {life.actor} has ended", info.code_ended_at is not None, code_ended)
                final = final.replace(code_ended_at=info.code_ended_at)
                self.expect(info == final, f"D14: {life.actor} ended as {final} and is now {info}")
            else:
                self.expect(info.evicted and info.result is None, f"D27: {life.actor} was evicted: {info}")
                for left in ("status", "error_type", "queue_wait_seconds", "trace_id", "span_id"):
                    self.same(f"D14: {left} of {life.actor}", getattr(info, left), getattr(final, left))

    def _log(self) -> None:
        canonical = ("task.finished", "task.retrying")
        written = self.world.telemetry.logs.lines
        lines = Counter((event, fields["task_id"]) for event, fields in written if event in canonical)
        expected = Counter(("task.finished", life.task_id) for life in self.model.ended)
        retrying = [("task.retrying", task) for kind, task in self.model.stream if kind == "task/retrying"]
        self.same("D15: lines", lines, expected + Counter(retrying))

    def scrape(self) -> None:
        """D3, D4, D14 and D29: the registry counts what the model counted, with labels from the declared sets."""
        samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        sums: defaultdict[str, float] = defaultdict(float)
        for family in self.world.registry.collect():
            for sample in family.samples:
                if sample.labels.get("le", "+Inf") == "+Inf":
                    samples[sample.name, frozenset(sample.labels.items())] = sample.value
                    sums[sample.name] += sample.value
                    self._labels(sample.name, sample.labels)
        below = [key for key, n in samples.items() if n < 0]
        self.expect(not below, f"D4: {below} are below 0")
        self._cells(samples)
        self._sums(sums)
        counters = {key: n for key, n in samples.items() if key[0].endswith(("_total", "_count"))}
        fallen = [key for key, n in self.last_counters.items() if counters.get(key, 0) < n]
        self.expect(not fallen, f"D4: {fallen} fell")
        self.last_counters = counters

    def _labels(self, name: str, labels: dict[str, str]) -> None:
        for label, value in labels.items():
            if name == f"{names.LOOP_BLOCKED.name}_total" and value in names.LOOP_BLOCKED_BY:
                continue
            if label not in FREE_LABELS and value not in LABELS.get(label, ()):
                self.expect(False, f"D29: {name} has {label}={value!r}")

    def _cells(self, samples: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        lives = self.model.lives.values()
        cells = Counter(
            (
                life.plan.category.value,
                life.plan.priority.label,
                (life.final.status if life.final else life.status).value,
            )
            for life in lives
        )
        shown: Counter[tuple[str, str, str]] = Counter()
        for (name, labels), n in samples.items():
            if name == "qorzen_tasks":
                by_name = dict(labels)
                shown[by_name["category"], by_name["priority"], by_name["status"]] += int(n)
        self.same("D3: qorzen_tasks", +shown, cells)

    def _sums(self, sums: dict[str, float]) -> None:
        started = [life for life in self.model.ended if life.attempt]
        failed = [life for life in self.model.ended if life.final and life.final.status is TaskStatus.FAILED]
        attempts = sum(event == "task/started" for event, _ in self.model.stream)
        expected = {
            "qorzen_tasks_submitted_total": len(self.model.lives),
            "qorzen_tasks_finished_total": len(self.model.ended),
            "qorzen_tasks_rejected_total": self.model.rejected.total(),
            "qorzen_task_retries_total": self.model.retries,
            "qorzen_task_errors_total": len(failed) + self.model.retries,
            "qorzen_tasks_never_started_total": len(self.model.ended) - len(started),
            "qorzen_tasks_abandoned": len(self.model.abandoned),
            "qorzen_task_run_duration_seconds_count": len(started),
            "qorzen_task_attempt_duration_seconds_count": attempts - len(self.model.running),
            "qorzen_task_queue_wait_seconds_count": attempts,
            "qorzen_task_cancelled_queue_wait_seconds_count": self.model.cancelled_attempts,
            "qorzen_definition_tasks_total": len(self.model.ended),
            "qorzen_definition_run_duration_seconds_count": len(started),
            "qorzen_events_dropped_total": self.model.late_results,
            "qorzen_queue_limit": self.model.settings["max_pending"],
            "qorzen_category_paused": len(self.model.paused),
        }
        for name, n in expected.items():
            self.same(f"D3: {name}", sums[name], n)
        if not self.model.live:  # each phase is counted when it ends
            lived = sum(sum(life.final.phases.values()) for life in self.model.ended if life.final)
            counted = sums[names.PHASE_SECONDS.name + "_total"]
            self.expect(
                abs(counted - lived) < EPSILON * (1 + lived), f"D3: {counted} s in phases, not {lived}"
            )

    # ------------------------------------------------------------------ at the end

    def after_shutdown(self) -> None:
        """D1 and D23: every accepted task has ended, and only abandoned code runs."""
        self.same("D23: state", self.world.manager.state.value, "stopped")
        self.same("D1: not ended", [life.actor for life in self.model.live], [])
        for task in self.world.stopping:
            self.expect(task.done() and task.exception() is None, f"D23: shutdown() did not return: {task}")
        running = [
            show.actor
            for actor in self.world.actors
            for show in actor.shows
            if show.outcome is None and actor not in [life.actor for life in self.model.abandoned]
        ]
        self.same("D23: still runs", running, [])
        self.same("D25: still wait", self.world.waiters + self.world.submissions, [])

    def when_all_is_over(self) -> None:
        """D24: no asyncio task is left, and no span open."""
        self.same("D24: tasks left", asyncio.all_tasks(self.world.loop), set())
        self.same("D14: abandoned", [life.actor for life in self.model.abandoned], [])
