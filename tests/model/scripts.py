"""A script that tells of each fault; `python -m tests.model.search` writes them."""

from typing import Final

from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority
from tests.model.actors import Line, Manner, Plan, RetryPlan
from tests.model.playing import Script

SCRIPTS: Final[dict[str, Script]] = {
    "a_cancellation_that_nobody_asked_for_counts": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(), Plan()],)),
            ("tell", (0, Line.RUN, [Plan()])),
            ("submit", ([Plan()],)),
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan()],)),
            ("tell", (6, Line.RAISE, "CancelledError")),
        ],
    ),
    "a_cancelled_pending_task_stays_in_the_queue": Script(
        {"default_timeout": 7.77},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("run", (Plan(),)),
            ("submit", ([Plan()],)),
            ("submit", ([Plan(), Plan(), Plan()],)),
            ("submit", ([Plan(), Plan(retry=RetryPlan(wait_seconds=30.0))],)),
            ("advance", (60.0,)),
            ("cancel", (6,)),
        ],
    ),
    "a_cancelled_span_is_an_error": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),))]
    ),
    "a_cancelled_task_is_tried_again": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(retry=RetryPlan()),))]
    ),
    "a_child_outlives_its_parent": Script(
        {"category_limits": {"core": 2, "io": 1}},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            (
                "submit",
                (
                    [
                        Plan(category=TaskCategory.IO),
                        Plan(category=TaskCategory.IO),
                        Plan(category=TaskCategory.IO),
                        Plan(category=TaskCategory.IO),
                        Plan(category=TaskCategory.IO),
                    ],
                ),
            ),
            ("submit", ([Plan(limit=("few", 2))],)),
            ("submit", ([Plan(category=TaskCategory.UI), Plan(category=TaskCategory.UI)],)),
            ("submit", ([Plan(category=TaskCategory.UI)],)),
            ("submit", ([Plan(category=TaskCategory.IO)],)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("submit", ([Plan(delay=50.0)],)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("submit", ([Plan(limit=("few", 1)), Plan(limit=("few", 1))],)),
            ("submit", ([Plan(timeout=0.5)],)),
            ("submit", ([Plan()],)),
            ("shutdown", (60.0,)),
            ("tell", (15, Line.SUBMIT, Plan())),
        ],
    ),
    "a_child_that_cannot_start_holds_up_a_shutdown": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan()],)),
            ("pause", (TaskCategory.CORE,)),
            ("shutdown", (60.0,)),
            ("tell", (0, Line.SUBMIT, Plan())),
        ],
    ),
    "a_decrement_is_skipped": Script({}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),))]),
    "a_delay_is_ignored": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("submit", ([Plan(delay=1.5)],))]
    ),
    "a_failure_keeps_a_result": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(sync=True, category=TaskCategory.UI)],))],
    ),
    "a_full_group_holds_up_the_others": Script(
        {"default_timeout": 7.77, "cancel_grace_seconds": 5.0},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("run", (Plan(timeout=4.0, retry=RetryPlan()),)),
            ("submit", ([Plan(sync=True, delay=1.5)],)),
            ("tell", (0, Line.RUN, [Plan(sync=True)])),
            ("advance", (60.0,)),
        ],
    ),
    "a_label_is_outside_its_set": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(timeout=4.0),)), ("advance", (60.0,))]
    ),
    "a_late_result_is_counted_twice": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("run", (Plan(),)),
            ("submit", ([Plan()],)),
            ("tell", (0, Line.RUN, [Plan(sync=True, deadline=20.0)])),
            ("advance", (60.0,)),
            ("tell", (2, Line.RAISE, "RetryLater")),
        ],
    ),
    "a_late_result_overwrites_the_end": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(), Plan(), Plan(), Plan(timeout=4.0, manner=Manner.IGNORES)], False)),
            ("advance", (60.0,)),
            ("tell", (3, Line.RAISE, "TaskCancelled")),
        ],
    ),
    "a_lent_slot_is_counted_twice": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),)), ("tell", (0, Line.RUN, [Plan()]))]
    ),
    "a_limit_is_off_by_one": Script(
        {"max_concurrent_tasks": 2},
        {EngineKind.IO: 2, EngineKind.THREAD: 1},
        [("submit", ([Plan(cancellable=False)], True)), ("submit", ([Plan(), Plan()], False))],
    ),
    "a_line_is_not_written": Script({}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),))]),
    "a_lost_settle": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan(), Plan(), Plan(), Plan()],)),
            ("tell", (1, Line.RUN, [Plan()])),
            ("submit", ([Plan(), Plan(), Plan(), Plan()], False)),
            ("submit", ([Plan()], False)),
            ("submit", ([Plan()],)),
            ("tell", (6, Line.RUN, [Plan(cancellable=False, retry=RetryPlan())])),
            ("advance", (310.0,)),
            ("tell", (12, Line.RUN, [Plan(sync=True)])),
            ("advance", (310.0,)),
        ],
    ),
    "a_new_ageing_is_not_applied": Script(
        {"ageing_seconds": 10.0},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan()],)),
            ("run", (Plan(),)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("advance", (60.0,)),
            ("submit", ([Plan(priority=TaskPriority.HIGH, limit=("few", 1))],)),
            ("tell", (2, Line.RETURN, None)),
        ],
    ),
    "a_new_limit_is_not_applied": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("configure", ("max_concurrent_tasks", 1))]
    ),
    "a_pause_holds_up_the_others": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("pause", (TaskCategory.IO,)),
            ("submit", ([Plan(retry=RetryPlan())],)),
            ("tell", (0, Line.RAISE, "BoomError")),
            ("advance", (0.05,)),
            ("advance", (1.0,)),
        ],
    ),
    "a_paused_lender_has_no_slot_back": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan()],)),
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan()],)),
            ("run", (Plan(category=TaskCategory.IO),)),
            ("tell", (4, Line.RUN, [Plan()])),
            ("pause", (TaskCategory.IO,)),
            ("tell", (5, Line.RETURN)),
        ],
    ),
    "a_paused_task_starts": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("pause", (TaskCategory.UI,)), ("submit", ([Plan(category=TaskCategory.UI, limit=("few", 1))],))],
    ),
    "a_phantom_record": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("submit", ([Plan(delay=1.5)],))]
    ),
    "a_raised_limit_starts_nobody": Script(
        {"category_limits": {"core": 1}},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [("submit", ([Plan(), Plan()],)), ("configure", ("category_limits", {}))],
    ),
    "a_refusal_is_not_counted": Script(
        {"max_pending": 2},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(delay=1.5), Plan(delay=1.5), Plan()],))],
    ),
    "a_resumed_category_starts_nobody": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan(), Plan(), Plan()],)),
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan(), Plan(), Plan(), Plan()],)),
            ("pause", (TaskCategory.CORE,)),
            ("tell", (9, Line.RUN, [Plan()])),
            ("resume", (TaskCategory.CORE,)),
        ],
    ),
    "a_resumed_lender_takes_no_slot": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan()],)),
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan()],)),
            ("run", (Plan(),)),
            ("tell", (4, Line.RUN, [Plan()])),
            ("tell", (5, Line.RETURN)),
        ],
    ),
    "a_retry_is_not_counted": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(retry=RetryPlan())],)), ("tell", (0, Line.RAISE, "BoomError"))],
    ),
    "a_shutdown_leaves_scheduled_tasks": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(retry=RetryPlan())],)), ("tell", (0, Line.RAISE, "BoomError"))],
    ),
    "a_shutdown_waits_for_what_is_paused": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("pause", (TaskCategory.IO,)),
            ("submit", ([Plan(category=TaskCategory.IO)],)),
            ("shutdown", (60.0,)),
        ],
    ),
    "a_slot_is_not_given_back": Script(
        {"category_limits": {"core": 1}},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(retry=RetryPlan())],)),
            ("tell", (0, Line.RAISE, "BoomError")),
            ("advance", (0.05,)),
            ("advance", (1.0,)),
        ],
    ),
    "a_span_has_no_parent": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),)), ("tell", (0, Line.RUN, [Plan()]))]
    ),
    "a_span_is_ended_twice": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(sync=True),))]
    ),
    "a_span_is_left_open": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(sync=True),))]
    ),
    "a_stopping_manager_refuses_its_own_tasks": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan()],)),
            ("tell", (1, Line.RUN, [Plan()])),
            ("tell", (2, Line.RETURN)),
            ("tell", (1, Line.RUN, [Plan()])),
            ("shutdown", (60.0,)),
            ("tell", (3, Line.SUBMIT, Plan())),
        ],
    ),
    "a_stopping_manager_takes_work": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("run", (Plan(),)), ("shutdown", (60.0,)), ("submit", ([Plan()],))],
    ),
    "a_timeout_moves_with_the_wall_clock": Script(
        {"default_timeout": 7.77},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("run", (Plan(),)),
            ("submit", ([Plan(sync=True, delay=1.5)],)),
            ("move_wall_clock", (1.0,)),
            ("advance", (60.0,)),
        ],
    ),
    "a_timeout_runs_from_the_submission": Script(
        {"default_timeout": 7.77},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("run", (Plan(),)),
            ("submit", ([Plan(sync=True, delay=1.5)],)),
            ("tell", (0, Line.RUN, [Plan(sync=True)])),
            ("advance", (60.0,)),
        ],
    ),
    "a_timeout_that_is_obeyed_is_a_cancellation": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [("submit", ([Plan(timeout=4.0)],)), ("advance", (5.0,))],
    ),
    "a_wait_of_the_queue_counts_from_the_submission": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("submit", ([Plan(delay=1.5)],)), ("advance", (60.0,))]
    ),
    "a_waiter_is_forgotten": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(manner=Manner.RAISES),))]
    ),
    "a_waiting_parent_keeps_its_slot": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),)), ("tell", (0, Line.RUN, [Plan()]))]
    ),
    "abandoned_slots_are_replaced_without_end": Script(
        {"max_abandoned": 1},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("run", (Plan(sync=True, timeout=4.0),)), ("submit", ([Plan(sync=True)],)), ("advance", (60.0,))],
    ),
    "an_abandoned_attempt_is_not_counted": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(sync=True),))]
    ),
    "an_alarm_is_not_set": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("run", (Plan(timeout=4.0, retry=RetryPlan()),)), ("advance", (60.0,))],
    ),
    "an_attempt_is_not_linked_to_the_one_before": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(retry=RetryPlan())],)),
            ("tell", (0, Line.RAISE, "BoomError")),
            ("advance", (1.0,)),
        ],
    ),
    "an_end_is_announced_twice": Script({}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(),))]),
    "an_end_is_counted_twice": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("run", (Plan(timeout=4.0),)), ("advance", (60.0,))]
    ),
    "an_event_is_dropped": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(retry=RetryPlan())],)), ("tell", (0, Line.RAISE, "BoomError"))],
    ),
    "last_in_is_first_out": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("configure", ("max_concurrent_tasks", 1)),
            ("submit", ([Plan()],)),
            (
                "submit",
                (
                    [
                        Plan(priority=TaskPriority.LOW, limit=("few", 2)),
                        Plan(priority=TaskPriority.LOW, limit=("few", 2)),
                    ],
                ),
            ),
            ("configure", ("max_concurrent_tasks", 2)),
        ],
    ),
    "one_attempt_too_many": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(sync=True, category=TaskCategory.UI, retry=RetryPlan())],)),
            ("advance", (640.0,)),
        ],
    ),
    "pending_tasks_go_before_lenders": Script(
        {"max_concurrent_tasks": 2, "default_timeout": 7.77},
        {EngineKind.IO: 2, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(), Plan(), Plan(retry=RetryPlan()), Plan()], False)),
            ("submit", ([Plan(priority=TaskPriority.HIGH, timeout=1000000.0)],)),
            ("submit", ([Plan(), Plan()],)),
            ("advance", (15.0,)),
            ("tell", (4, Line.WAIT, [5])),
            ("advance", (60.0,)),
        ],
    ),
    "priority_is_ignored": Script(
        {"max_concurrent_tasks": 1},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan(priority=TaskPriority.HIGH)],)),
            ("configure", ("max_concurrent_tasks", 4)),
        ],
    ),
    "priority_is_upside_down": Script(
        {"max_concurrent_tasks": 1},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan()],)),
            ("submit", ([Plan(priority=TaskPriority.HIGH)],)),
            ("configure", ("max_concurrent_tasks", 4)),
        ],
    ),
    "progress_falls": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan(), Plan()],)),
            ("tell", (1, Line.RUN, [Plan()])),
            ("tell", (2, Line.RETURN)),
            ("tell", (1, Line.SUBMIT, Plan())),
            ("tell", (1, Line.SUBMIT, Plan())),
            ("tell", (1, Line.SUBMIT, Plan())),
            ("tell", (1, Line.RUN, [Plan()])),
            ("tell", (6, Line.RETURN)),
            ("tell", (1, Line.RUN, [Plan()])),
            ("tell", (7, Line.REPORT, -5.0)),
        ],
    ),
    "retention_drops_a_live_task": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(sync=True, retry=RetryPlan())],)),
            ("tell", (0, Line.RAISE, "BoomError")),
            ("submit", ([Plan()],)),
            ("advance", (1.0,)),
        ],
    ),
    "retention_drops_one_too_many": Script(
        {"keep_completed_tasks": 2},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("run", (Plan(),)), ("submit", ([Plan()],)), ("tell", (0, Line.RUN, [Plan()]))],
    ),
    "the_bound_on_pending_is_off_by_one": Script(
        {"max_pending": 2},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(delay=1.5), Plan(delay=1.5), Plan()],))],
    ),
    "the_deadline_of_a_task_is_ignored": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan(deadline=3.0)],)), ("advance", (640.0,))],
    ),
    "the_grace_never_ends": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("run", (Plan(sync=True, timeout=4.0),)), ("advance", (60.0,))],
    ),
    "the_heap_is_upside_down": Script(
        {}, {EngineKind.IO: 1, EngineKind.THREAD: 1}, [("submit", ([Plan(delay=1.5)],))]
    ),
    "the_last_ask_wins": Script(
        {},
        {EngineKind.IO: 2, EngineKind.THREAD: 2},
        [("submit", ([Plan(timeout=0.5, manner=Manner.IGNORES)],))],
    ),
    "the_limit_of_a_definition_is_ignored": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [("submit", ([Plan(limit=("few", 2)), Plan(limit=("few", 2)), Plan(limit=("few", 2))],))],
    ),
    "the_number_of_the_attempt_does_not_rise": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [
            ("submit", ([Plan(retry=RetryPlan())],)),
            ("tell", (0, Line.RAISE, "BoomError")),
            ("advance", (1.0,)),
        ],
    ),
    "waiting_counts_against": Script(
        {"ageing_seconds": 0.0},
        {EngineKind.IO: 2, EngineKind.THREAD: 1},
        [
            (
                "submit",
                (
                    [
                        Plan(timeout=4.0, limit=("few", 1)),
                        Plan(limit=("few", 1)),
                        Plan(priority=TaskPriority.HIGH, limit=("few", 1)),
                    ],
                ),
            ),
            ("advance", (60.0,)),
        ],
    ),
    "waiting_counts_for_nothing": Script(
        {"ageing_seconds": 10.0},
        {EngineKind.IO: 1, EngineKind.THREAD: 2},
        [
            ("submit", ([Plan()],)),
            ("run", (Plan(),)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("submit", ([Plan(limit=("few", 1))],)),
            ("advance", (60.0,)),
            ("submit", ([Plan(priority=TaskPriority.HIGH, limit=("few", 1))],)),
            ("tell", (2, Line.RETURN, None)),
        ],
    ),
    "what_is_not_cancellable_is_cancelled": Script(
        {},
        {EngineKind.IO: 1, EngineKind.THREAD: 1},
        [("submit", ([Plan()],)), ("submit", ([Plan(), Plan(), Plan(cancellable=False)],)), ("cancel", (3,))],
    ),
}
