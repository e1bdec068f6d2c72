"""The page's pure modules, run where they run: the store's fold of events, the stream's parser, a trace's layout."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser

from tests.services.browser import visit
from tests.services.ops_plane import SaidManager, serving

pytestmark = pytest.mark.slow


async def run_in_page(browser: Browser, module: str, code: str, given: object = None) -> Any:
    """Return what `code`, a function of a module of the page and of what is given, returns there."""
    async with serving(SaidManager()) as plane:
        page = (await visit(browser, plane.url)).page
        script = f"async (given) => ({code})(await import('./static/js/{module}'), given)"
        found = await page.evaluate(script, given)
        await page.close()
        return found


def span(name: str, parent: str, begin: int, end: int, **attributes: Any) -> dict[str, Any]:
    """A span of OTLP/JSON whose id is its name; moments in seconds."""
    return {
        "spanId": name,
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": str(begin * 10**9),
        "endTimeUnixNano": str(end * 10**9),
        "attributes": [
            {"key": f"qorzen.task.{key}", "value": {"stringValue": value}}
            for key, value in attributes.items()
        ],
        "status": {"code": 2, "message": "no paper"} if name == "failed" else {},
    }


def trace(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


LAYOUT = """({layout}, given) => layout(given).rows.map(
    (one) => [one.name, one.depth, one.engine, one.begin, one.isError, one.isCritical])"""


async def test_a_trace_is_laid_out_as_a_tree_with_the_path_that_held_its_end(browser: Browser) -> None:
    rows = await run_in_page(
        browser,
        "parts/waterfall-layout.js",
        LAYOUT,
        trace(
            span("late", "root", 13, 19),
            span("root", "elsewhere", 10, 20, engine="loop"),
            span("failed", "root", 11, 12, engine="process"),
            span("inside", "failed", 11, 12),
            span("beside", "root", 14, 15, engine="thread"),
        ),
    )
    assert rows == [
        ["root", 0, "loop", 0, False, True],
        ["failed", 1, "process", 1, True, True],
        ["inside", 2, "process", 1, False, True],
        ["late", 1, "loop", 3, False, True],
        ["beside", 1, "thread", 4, False, False],
    ]


async def test_spans_that_are_each_below_the_other_are_shown_once(browser: Browser) -> None:
    rows = await run_in_page(
        browser, "parts/waterfall-layout.js", LAYOUT, trace(span("a", "b", 0, 1), span("b", "a", 0, 1))
    )
    assert [row[0] for row in rows] == ["a", "b"]


async def test_a_submission_is_a_mark_on_the_row_of_its_attempt_and_a_row_where_there_is_none(
    browser: Browser,
) -> None:
    submission = {"kind": 4}
    rows = await run_in_page(
        browser,
        "parts/waterfall-layout.js",
        "({layout}, given) => layout(given).rows.map((one) => [one.name, one.depth, one.submitted])",
        trace(
            span("root", "", 10, 20),
            span("submit a", "root", 11, 11, id="a") | submission,
            span("a", "submit a", 13, 15, id="a"),
            span("submit b", "root", 12, 12, id="b") | submission,
            span("sent", "root", 12, 13) | submission,
        ),
    )
    assert rows == [["root", 0, None], ["submit b", 1, None], ["sent", 1, None], ["a", 1, 1]]


ATTEMPTS = """({attempts, traceIds}, {lines, task}) => {
    const found = attempts(lines, task);
    return [found.map((one) => [one.number, one.status, one.error_type ?? null]), traceIds(found, task)];
}"""


async def test_attempts_are_read_from_the_lines_that_they_left(browser: Browser) -> None:
    lines = [
        {"event": "connecting", "attempt": 1},
        {
            "event": "task.retrying",
            "attempt": 1,
            "status": "pending",
            "error_type": "OSError",
            "trace_id": "a",
        },
        {"event": "task.retrying", "attempt": "2", "status": "pending"},
    ]
    running = {"status": "running", "attempt": 2, "trace_id": "b"}
    assert await run_in_page(browser, "parts/attempts.js", ATTEMPTS, {"lines": lines, "task": running}) == [
        [[1, "failed", "OSError"], [2, "running", None]],
        ["a", "b"],
    ]
    last = {"event": "task.finished", "attempt": 2, "status": "completed", "trace_id": "a"}
    over = {"status": "completed", "attempt": 2, "trace_id": "a"}
    assert await run_in_page(
        browser, "parts/attempts.js", ATTEMPTS, {"lines": [*lines, last], "task": over}
    ) == [[[1, "failed", "OSError"], [2, "completed", None]], ["a"]]


async def test_attempts_that_left_no_line_are_read_from_the_record(browser: Browser) -> None:
    begun, ended = "2026-01-31T12:00:00Z", "2026-01-31T12:00:02Z"
    tried = [
        {"number": 1, "started_at": begun, "ended_at": ended, "error_type": "OSError"},
        {"number": 2, "started_at": ended, "ended_at": ended, "error_type": "lost"},
    ]
    lost = {"status": "failed", "attempt": 2, "trace_id": "b", "attempts": tried}
    assert await run_in_page(browser, "parts/attempts.js", ATTEMPTS, {"lines": [], "task": lost}) == [
        [[1, "failed", "OSError"], [2, "failed", "lost"]],
        ["b"],
    ]


async def test_an_event_arrives_whole_in_whatever_pieces(browser: Browser) -> None:
    text = (
        'retry: 1000\n\nid: a-1\nevent: state\ndata: {"state": "x"}\n\n: still here\nid: a-2\n\nid: a-3\nev'
    )
    code = """({parser}, text) => {
        const parse = parser();
        return [...text].flatMap(parse).map(({id, event, data}) => [id, event, data]);
    }"""
    assert await run_in_page(browser, "stream.js", code, text) == [
        ["a-1", "state", {"state": "x"}],
        ["a-2", None, None],
    ]


FOLD = """({emptyState, reduce, MAX_TASKS}) => {
    const counts = {total: 1, by_status: {running: 1}, by_category: {io: 1}, by_priority: {low: 1},
        pending_by_priority: {low: 0}, pending_by_category: {io: 0}, running_by_category: {io: 1}};
    const task = (task_id, status) => ({task_id, status, category: "io", priority: "low", completed_at: ""});
    const happened = (kind, previous, one) => ({event: kind, data: {kind, previous, task: one}});
    const snapshot = {state: "ready", at: "1970-01-01T00:00:02Z", counts, running: [task("a", "running")], newest: [],
        ended: [task("e", "failed")]};
    let {state, changed} = reduce(emptyState(), [{event: "snapshot", data: snapshot}], 1000);
    const first = changed;
    ({state, changed} = reduce(state, [
        happened("task/submitted", null, task("b", "pending")),
        happened("task/progress", null, task("a", "running")),
        happened("task/completed", "running", task("a", "completed")),
    ], 1500));
    const found = [first, [...changed], state.counts, state.running.size, [...state.pending.keys()], state.clockOffset,
        [...state.ended], state.failed.map((one) => one.task_id)];
    const failed = (n) => happened("task/failed", "running", task(`t${n}`, "failed"));
    const many = Array.from({length: MAX_TASKS + 5}, (_, n) => failed(n));
    ({state} = reduce(state, many, 2000));
    return [...found, state.tasks.size === MAX_TASKS, state.tasks.has("a"), state.tasks.has("b"),
        state.failed.length];
}"""


async def test_events_are_folded_into_exact_counts_and_a_bounded_number_of_tasks(browser: Browser) -> None:
    assert await run_in_page(browser, "store.js", FOLD) == [
        None,
        ["b", "a"],
        {
            "total": 2,
            "by_status": {"running": 0, "pending": 1, "completed": 1},
            "by_category": {"io": 2},
            "by_priority": {"low": 2},
            "pending_by_priority": {"low": 1},
            "pending_by_category": {"io": 1},
            "running_by_category": {"io": 0},
        },
        0,
        ["b"],
        1000,
        ["e", "a"],
        ["e"],
        True,
        False,
        True,
        25,
    ]


async def test_a_time_of_another_day_has_its_date(browser: Browser) -> None:
    code = """({moment}) => {
        const now = new Date(2026, 5, 2, 10, 0, 0);
        return [new Date(2026, 5, 2, 0, 0, 1), new Date(2026, 5, 1, 23, 59, 59), new Date(2025, 5, 2, 10, 0, 0)]
            .map((at) => moment(at.toISOString(), now.getTime()));
    }"""
    assert await run_in_page(browser, "words.js", code) == [
        "00:00:01",
        "1 Jun 23:59:59",
        "2 Jun 2025 10:00:00",
    ]


async def test_a_task_waits_until_it_starts_and_runs_until_it_ends(browser: Browser) -> None:
    code = """({waited, took, sorted}, given) => {
        const now = Date.parse("2026-01-01T00:01:00Z");
        const order = sorted(given, "took", true, now).map((one) => one.name);
        return [...given.map((one) => [one.name, waited(one, now), took(one, now)]), order];
    }"""
    base = {"created_at": "2026-01-01T00:00:00Z", "queue_wait_seconds": None, "duration_seconds": None}
    tasks = [
        {**base, "name": "pending", "status": "pending", "eligible_at": "2026-01-01T00:00:50Z"},
        {**base, "name": "later", "status": "pending", "eligible_at": "2026-01-01T01:00:00Z"},
        {**base, "name": "fresh", "status": "pending", "eligible_at": None},
        {
            **base,
            "name": "running",
            "status": "running",
            "started_at": "2026-01-01T00:00:45Z",
            "queue_wait_seconds": 45,
        },
        {**base, "name": "ended", "status": "completed", "queue_wait_seconds": 1, "duration_seconds": 20},
    ]
    assert await run_in_page(browser, "parts/task-index.js", code, tasks) == [
        ["pending", 10, None],
        ["later", None, None],
        ["fresh", 60, None],
        ["running", 45, 15],
        ["ended", 1, 20],
        ["ended", "running", "pending", "later", "fresh"],
    ]


async def test_a_chart_without_points_is_a_minute_wide_so_that_its_axis_has_different_times(
    browser: Browser,
) -> None:
    code = """({columns}, at) => {
        const none = {completed: [], failed: [], cancelled: [], running: [], pending: [], queue_wait_p95: {
            critical: [], high: [], normal: [], low: []}, loop_lag_p95: [], loop_lag_max: []};
        const filled = (list) => Array.isArray(list) ? at.map(() => 1)
            : Object.fromEntries(Object.entries(list).map(([key, value]) => [key, filled(value)]));
        const live = {at: 1000, counts: {}, rates: {}};
        return [{...none, at: []}, {...filled(none), at}].map((series) => {
            const found = columns(series, live);
            const lines = [...found.rates, ...found.waits, ...found.depth, ...found.lag];
            return [found.at, lines.every(({values}) => values.length === found.at.length)];
        });
    }"""
    at = ["1970-01-01T00:15:00Z", "1970-01-01T00:16:00Z"]
    assert await run_in_page(browser, "parts/series-charts.js", code, at) == [
        [[940, 1000], True],
        [[900, 960, 1000], True],
    ]


async def test_the_shares_of_a_task_s_time_add_up_to_100(browser: Browser) -> None:
    phases = {"queued": 1.0, "loop": 1.0, "await": 1.0}
    given = [phases, {"loop": 0.2, "await": 59.8}, {}]
    code = "({shares}, given) => given.map((one) => shares(one).map(({percent}) => percent))"
    found = await run_in_page(browser, "parts/ledger.js", code, given)
    assert found == [[34, 33, 33], [0, 100], []]


REFUSALS = """async ({signIn, request, access}) => {
    const answers = [];
    const real = window.fetch;
    window.fetch = (path, options) => path !== "asked"
        ? real(path, options)
        : new Promise((resolve) => answers.push(() => resolve(new Response("", {status: 401}))));
    const asked = () => request("asked").catch(() => null);
    const seen = [];
    const answer = async (number, question) => {
        await null;
        answers[number]();
        await question;
        seen.push([access().wanted, access().wrong]);
    };
    const [first, late] = [asked(), asked()];
    await answer(0, first);  // nobody has given a token yet
    signIn("a wrong one");
    const [second, third] = [asked(), asked()];
    await answer(1, late);  // it was asked before there was a token
    await answer(2, second);
    await answer(3, third);  // it had the same token
    await answer(4, asked());  // it had none
    return seen;
}"""


async def test_a_wrong_token_is_named_and_a_right_one_kept_however_late_answers_come(
    browser: Browser,
) -> None:
    seen = await run_in_page(browser, "server.js?alone", REFUSALS)
    assert seen == [[True, False], [False, False], [True, True], [True, True], [True, True]]


MATCHES = """({matcher}, {query, tasks}) => {
    const fits = matcher(new URLSearchParams(query), new Set(new URLSearchParams(query).getAll("below")));
    return tasks.filter(fits).map((one) => one.task_id);
}"""


async def test_a_list_takes_in_what_the_stream_tells_of_the_tasks_that_it_is_about(browser: Browser) -> None:
    tasks = [
        {"task_id": "root", "definition": "a", "parent_id": None, "error_type": None},
        {"task_id": "child", "definition": "a", "parent_id": "root", "error_type": "OSError"},
        {"task_id": "grandchild", "definition": "b", "parent_id": "child", "error_type": None},
        {"task_id": "other", "definition": "b", "parent_id": None, "error_type": None},
    ]
    for query, found in (
        ("below=root", ["child", "grandchild"]),
        ("parent_id=root", ["child"]),
        ("definition=b", ["grandchild", "other"]),
        ("error_type=OSError&definition=a", ["child"]),
    ):
        given = {"query": query, "tasks": tasks}
        assert await run_in_page(browser, "parts/task-index.js", MATCHES, given) == found, query
