"""An HTTP client for a running service, which the command line uses from another terminal.

Blocking and based on the standard library, since it runs in a process of its own. Answers are checked and typed, so
that a service is not confused with another program that answers at its address.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, Literal, TypeVar

import msgspec

from qorzen_obs.endpoint import socket_path
from qorzen_obs.errors import QorzenError

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 10.0

#: Parameters of a query; None and empty sequences are left out.
Query = Mapping[str, str | int | Sequence[str] | None]


class ClientError(QorzenError):
    """The service refused or could not be reached; the message says which."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status  #: HTTP status; None if no service answered

    def __str__(self) -> str:
        return self.message


# ---------------------------------------------------------------------- the parts of a service's answers that we read


class Progress(msgspec.Struct, frozen=True):
    """A task's progress report."""

    percent: float = 0.0
    message: str = ""
    updated_at: datetime | None = None  #: None before the first report


class FamilyNumbers(msgspec.Struct, frozen=True):
    """How many live and kept tasks there are, and by status."""

    total: int
    by_status: dict[str, int]


class Family(msgspec.Struct, frozen=True):
    """The name of the task that submitted a task, the tasks that it submitted itself, and all that it led to."""

    children: FamilyNumbers
    below: FamilyNumbers
    parent_name: str | None = None


class Run(msgspec.Struct, frozen=True):
    """One attempt of a task."""

    number: int
    engine: str
    started_at: datetime
    worker: int | None = None  #: the id of the worker process
    ended_at: datetime | None = None
    error_type: str | None = None


class RerunState(msgspec.Struct, frozen=True):
    """Whether a task can be run again; `task_id` is the last that runs it again."""

    possible: bool
    why_not: str | None = None
    task_id: str | None = None


class Task(msgspec.Struct, frozen=True):
    """One task, as in `GET /api/tasks/{id}` and, without traceback, in lists."""

    task_id: str
    name: str
    category: str
    priority: str
    status: str
    created_at: datetime
    progress: Progress = Progress()
    plugin_id: str | None = None
    eligible_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    queue_wait_seconds: float | None = None
    duration_seconds: float | None = None
    phases: dict[str, float] = {}
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    cancellable: bool = True
    cancel_guarantee: str = ""
    cancel_reason: str | None = None
    attempt: int = 0
    engine: str = ""
    timeout_seconds: float | None = None
    waiting_for: str | None = None
    abandoned: bool = False
    code_ended_at: datetime | None = None
    evicted: bool = False
    trace_id: str | None = None
    rerun_of: str | None = None
    parent_id: str | None = None
    definition: str = ""
    family: Family | None = None  #: None in lists
    #: Read from the durable history: memory does not have it, or has an outline only.
    stored: bool = False
    rerun: RerunState | None = None
    attempts: list[Run] = []  #: the last 100 at most; empty in lists

    @property
    def still_runs(self) -> bool:
        """Whether it was abandoned and its code has not ended yet."""
        return self.abandoned and self.code_ended_at is None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status not in ("pending", "running")


class TaskPage(msgspec.Struct, frozen=True):
    """A page of a list of tasks; `at` is the service's own clock."""

    items: list[Task]
    at: datetime
    next_cursor: str | None = None
    history_unavailable: bool = False  #: stored tasks are missing, since they cannot be read now


class Loss(msgspec.Struct, frozen=True):
    """What the end of one process took along."""

    instance: str
    started_at: datetime
    last_seen_at: datetime
    noticed_at: datetime
    running: int
    pending: int
    by_category: dict[str, int] = {}

    @property
    def tasks(self) -> int:
        """How many tasks were lost."""
        return self.running + self.pending


class Lost(msgspec.Struct, frozen=True):
    """`GET /api/lost`: the newest first."""

    losses: list[Loss]
    items: list[Task]
    at: datetime


class Refusal(msgspec.Struct, frozen=True):
    """Tasks that a command for many did nothing of, for one reason."""

    reason: str
    count: int
    example: str


class BulkOutcome(msgspec.Struct, frozen=True):
    """What a command for many tasks has done of a page of them, or would do."""

    dry_run: bool
    matching: int
    asked: int
    done: int
    refused: list[Refusal]
    task_ids: list[str]
    at: datetime
    next_cursor: str | None = None


class Trace(msgspec.Struct, frozen=True):
    """One trace in memory."""

    trace_id: str
    root_name: str


class TraceList(msgspec.Struct, frozen=True):
    """`GET /api/traces`."""

    items: list[Trace]


class Slots(msgspec.Struct, frozen=True):
    """The slots of an engine."""

    limit: int
    busy: int
    lent: int = 0
    abandoned: int = 0


class Counts(msgspec.Struct, frozen=True):
    """How many tasks there are and have been."""

    total: int
    by_status: dict[str, int]
    by_category: dict[str, int] = {}
    by_priority: dict[str, int] = {}
    retained: int = 0
    rejected: int = 0


class Queue(msgspec.Struct, frozen=True):
    """What is pending."""

    depth: int
    limit: int
    scheduled: int = 0
    oldest_pending_age_seconds: float | None = None
    paused: list[str] = []  #: paused categories, whose pending tasks wait


class Status(msgspec.Struct, frozen=True):
    """`GET /status`."""

    state: str
    tasks: Counts
    queue: Queue
    slots: dict[str, Slots]
    engines: dict[str, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}
    history: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Setting(msgspec.Struct, frozen=True):
    """One setting in force."""

    value: Any
    default: bool


class SettingsInForce(msgspec.Struct, frozen=True):
    """`GET /api/settings`, by section and name."""

    sections: dict[str, dict[str, Setting]]


class Finding(msgspec.Struct, frozen=True):
    """The result of one health check."""

    status: Literal["pass", "warn", "fail"]
    output: str = ""


class Health(msgspec.Struct, frozen=True):
    """`GET /health`."""

    status: Literal["pass", "warn", "fail"]
    checks: dict[str, list[Finding]] = {}

    def problems(self) -> Iterator[tuple[str, Finding]]:
        """Yield the checks that do not pass, with their names."""
        for name, findings in self.checks.items():
            for finding in findings:
                if finding.status != "pass":
                    yield name, finding


class Running(msgspec.Struct, frozen=True):
    """How one running task is doing."""

    task_id: str
    pid: int | None = None  #: id of the worker process that runs it


class RunningList(msgspec.Struct, frozen=True):
    """`GET /api/running`."""

    items: list[Running]


class Culprit(msgspec.Struct, frozen=True):
    """The code that holds or held the work loop."""

    name: str
    frames: list[Frame] = []


class Block(msgspec.Struct, frozen=True):
    """A finished stretch of time in which the work loop was held."""

    at: datetime
    seconds: float
    cause: str
    culprit: Culprit | None = None


class WorkLoop(msgspec.Struct, frozen=True):
    """`GET /api/loop`."""

    state: str
    blocked_seconds: float
    at: datetime
    cause: str | None = None
    culprit: Culprit | None = None
    #: for how long this code has held it; others may have held it before
    culprit_seconds: float | None = None
    recent: list[Block] = []  #: the last first


class Why(msgspec.Struct, frozen=True):
    """`GET /api/tasks/{id}/why`."""

    pending: bool
    held_by: str | None = None
    ahead: int | None = None
    eligible_in_seconds: float | None = None


class Frame(msgspec.Struct, frozen=True):
    """One line of a stack."""

    file: str
    line: int
    function: str
    code: str | None = None


class AsyncioTask(msgspec.Struct, frozen=True):
    """An asyncio task that a task has started."""

    name: str
    frames: list[Frame] = []
    awaiting: str | None = None


class Stack(msgspec.Struct, frozen=True):
    """`GET /api/tasks/{id}/stack`: the innermost frame last."""

    state: str
    frames: list[Frame] = []
    awaiting: str | None = None
    asyncio_tasks: list[AsyncioTask] = []
    pid: int | None = None  #: id of the worker process


class LogLines(msgspec.Struct, frozen=True):
    """`GET /api/tasks/{id}/logs`: the oldest first; `at`, `level`, `event` and the other fields of each line."""

    items: list[dict[str, Any]]
    dropped: int = 0
    missing: str | None = None  #: why there are none, or not all: "early" or "late"


class Submitted(msgspec.Struct, frozen=True):
    """The task that was created."""

    task_id: str


class KnownTask(msgspec.Struct, frozen=True):
    """A task that the service knows by name."""

    name: str


class Registry(msgspec.Struct, frozen=True):
    """`GET /api/registry`."""

    items: list[KnownTask]


# ---------------------------------------------------------------------- requests


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a service sends none, and no other host may get its token."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse the redirect: the answer becomes an error."""


class _SocketConnection(http.client.HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: str, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.sock = None
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no Unix sockets; give an address that starts with http://")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _SocketHandler(urllib.request.HTTPHandler):
    """Sends every request to one socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, req: urllib.request.Request) -> Any:
        """Send the request to the socket."""
        return self.do_open(functools.partial(_SocketConnection, self._path), req)


class Client:
    """A client for one service.

    Every method raises ClientError if the service refuses, does not answer, or is a different program.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        path = socket_path(url)
        self.url = url.rstrip("/")
        self._base = self.url if path is None else "http://localhost"
        # A proxy from the environment is not used for a socket.
        handlers = [] if path is None else [urllib.request.ProxyHandler({}), _SocketHandler(path)]
        self._open = urllib.request.build_opener(_NoRedirect, *handlers).open
        self._token = token
        self._timeout_seconds = timeout_seconds

    def get(self, path: str, kind: type[T], query: Query | None = None, *, also: tuple[int, ...] = ()) -> T:
        """Return the document at a path as `kind`; also accept an answer with one of these statuses."""
        value: T = self._decode(self._ask(_with_query(path, query or {}), also=also), kind)
        return value

    def document(self, path: str, query: Query | None = None, *, also: tuple[int, ...] = ()) -> Any:
        """As `get`, but return plain JSON, to pass on or for `read`."""
        return self._decode(self._ask(_with_query(path, query or {}), also=also), Any)

    def read(self, document: Any, kind: type[T]) -> T:
        """Return a document as `kind`."""
        try:
            return msgspec.convert(document, kind)
        except msgspec.ValidationError as error:
            raise self._no_such_service(error) from error

    def post(self, path: str, kind: type[T], document: Mapping[str, Any] | None = None) -> T:
        """Send a command and return the answer as `kind`."""
        value: T = self._decode(self._ask(path, json.dumps(document or {}).encode()), kind)
        return value

    def status(self) -> Status:
        """Return the service's status."""
        return self.get("/status", Status)

    def health(self) -> Health:
        """Return the report of /health, also of a service that fails."""
        return self.get("/health", Health, also=(HTTPStatus.SERVICE_UNAVAILABLE,))

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self.text("/metrics")

    def text(self, path: str, *, also: tuple[int, ...] = ()) -> str:
        """Return the document at a path as text; also accept an answer with one of these statuses."""
        return self._ask(path, also=also).decode("utf-8", "replace")

    def tasks(self, query: Query) -> TaskPage:
        """Return a page of a list."""
        return self.get("/api/tasks", TaskPage, query)

    def task(self, task_id: str) -> Task:
        """Return one task."""
        return self.get(task_path(task_id), Task)

    def lost(self) -> Lost:
        """Return what earlier processes of the service took along when they died."""
        return self.get("/api/lost", Lost)

    def cancel(self, task_id: str) -> Task:
        """Cancel a task, or ask a running one to stop; return its state."""
        return self.post(task_path(task_id, "cancel"), Task)

    def rerun(self, task_id: str) -> str:
        """Run an ended task again; return the new task's id."""
        return self.post(task_path(task_id, "rerun"), Submitted).task_id

    def cancel_all(self, query: Query) -> BulkOutcome:
        """Cancel a page of the pending and running tasks that a query selects; say what became of them."""
        return self.post(_with_query("/api/bulk/cancel", query), BulkOutcome)

    def rerun_all(self, query: Query) -> BulkOutcome:
        """Run a page of the failed or cancelled tasks that a query selects again; say what became of them."""
        return self.post(_with_query("/api/bulk/rerun", query), BulkOutcome)

    def submit(self, document: Mapping[str, Any]) -> str:
        """Submit a task; return its id."""
        return self.post("/api/tasks", Submitted, document).task_id

    def known_names(self) -> list[str]:
        """Return the names of the tasks that may be submitted."""
        return [known.name for known in self.get("/api/registry", Registry).items]

    def pause(self, category: str) -> None:
        """Pause a category: its pending tasks wait."""
        self.post(f"/api/categories/{_quoted(category)}/pause", dict)

    def resume(self, category: str) -> None:
        """Resume a category: its tasks start again."""
        self.post(f"/api/categories/{_quoted(category)}/resume", dict)

    def _decode(self, body: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_such_service(error) from error

    def _unauthorized(self) -> str:
        where = "--token-file, or QORZEN_SERVER__TOKEN"
        if self._token is None:
            return f"the service wants its token: {where}"
        return f"the service does not accept this token; see {where}"

    def _header_token(self, token: str) -> str:
        """Return the token in the form in which the standard library takes non-ASCII text: one character per byte."""
        if any(character in token for character in "\r\n\0"):
            raise ClientError(
                "the token has a character that no header can carry; see --token-file, or QORZEN_SERVER__TOKEN"
            )
        return token.encode("utf-8", "surrogateescape").decode("latin-1")

    def _no_such_service(self, error: Exception) -> ClientError:
        return ClientError(
            f"{self.url} did not answer like this service ({error}); is it the service's --url?"
        )

    def _ask(self, path: str, body: bytes | None = None, *, also: tuple[int, ...] = ()) -> bytes:
        """Return the body of a successful answer, or of one whose status is in `also`. With a body this is a POST."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._header_token(self._token)}"
        try:
            request = urllib.request.Request(self._base + path, body, headers)
            with self._open(request, timeout=self._timeout_seconds) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                content = b""
                with contextlib.suppress(OSError, HTTPException):
                    content = error.read()
            if error.code in also:
                return content
            detail = (
                self._unauthorized() if error.code == HTTPStatus.UNAUTHORIZED else _detail(error, content)
            )
            raise ClientError(detail, error.code) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ClientError(f"{self.url} does not answer ({reason}); is it the service's --url?") from error


def task_path(task_id: str, of: str = "") -> str:
    """Return the path of a task, or the path of something that belongs to it.

    >>> task_path("a/b", "logs")
    '/api/tasks/a%2Fb/logs'
    """
    return f"/api/tasks/{_quoted(task_id)}" + (f"/{of}" if of else "")


def trace_path(trace_id: str) -> str:
    """Return the path of a trace."""
    return f"/api/traces/{_quoted(trace_id)}"


def _quoted(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _with_query(path: str, query: Query) -> str:
    given = {name: value for name, value in query.items() if value not in (None, (), [])}
    return f"{path}?{urllib.parse.urlencode(given, doseq=True)}" if given else path


def _detail(error: urllib.error.HTTPError, content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"the service answered {error.code} {error.reason}"
