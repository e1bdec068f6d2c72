"""Submits a call once, however often it is requested: remembers which task a key was first used for.

Keys belong to the name of a task. A key is remembered while its task is live or kept whole, so there are never more
keys than tasks. The caller keeps and submits the tasks.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePath
from typing import Any, Final, NamedTuple

import msgspec

from qorzen_obs import foreign
from qorzen_obs.arguments import check_name
from qorzen_obs.errors import IdempotencyConflictError, InvalidTaskError

MAX_KEY_LENGTH: Final = 128


class Submission(NamedTuple):
    """What became of a submission with a key."""

    task_id: str  #: the id of the key's task
    first: bool  #: False: the key was known and nothing was submitted; the id is that of the earlier task


class _Use:
    __slots__ = ("digest", "over", "task_id")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.task_id: str | None = None  #: None while it is being submitted
        self.over = asyncio.Event()


class IdempotencyKeys:
    """The keys of one manager; for its work loop."""

    def __init__(self) -> None:
        self._uses: dict[tuple[str, str], _Use] = {}
        self._used_for: dict[str, tuple[str, str]] = {}  # by the task's id

    def __len__(self) -> int:
        return len(self._uses)

    async def submit(
        self,
        name: str,
        key: str,
        digest: bytes,
        submit: Callable[[], Awaitable[str]],
        *,
        is_kept: Callable[[str], bool],
    ) -> Submission:
        """Await `submit` for a new key of `name`; for a known key with this `digest`, return its task.

        While the first use is still being submitted, the next one waits for it. A use that raised or was cancelled
        does not count. `is_kept` says whether the task with an id is live or kept whole; once it is not, the caller
        calls `forget`.

        Raises:
            IdempotencyConflictError: the key was used with another digest.
            InvalidTaskError: `name` or `key` is unusable.
        """
        used = (check_name("name", name), _check_key(key))
        while (use := self._uses.get(used)) is not None:
            if use.digest != digest:
                raise IdempotencyConflictError(name, key)
            if use.task_id is not None:
                return Submission(use.task_id, first=False)
            await use.over.wait()
        use = self._uses[used] = _Use(digest)
        try:
            task_id = await submit()
            if is_kept(task_id):
                use.task_id = task_id
                self._used_for[task_id] = used
        finally:
            if use.task_id is None:
                del self._uses[used]
            use.over.set()
        return Submission(task_id, first=True)

    def forget(self, task_id: str) -> None:
        """Free the key of a task that is no longer kept, if it had one."""
        used = self._used_for.pop(task_id, None)
        if used is not None:
            del self._uses[used]


def digest_of(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return a digest that identifies a call: from the callable's name, and the arguments as JSON shows them.

    Raises:
        InvalidTaskError: an argument cannot be shown as JSON.
    """
    inner: Any = func
    try:
        while foreign.is_a(inner, functools.partial):
            args, kwargs = (*inner.args, *args), {**inner.keywords, **kwargs}
            inner = foreign.func_of_partial(inner)
        call = [foreign.full_name_of(inner), list(args), dict(kwargs)]
        return sha256(msgspec.json.encode(call, enc_hook=_as_json, order="sorted")).digest()
    except BaseException as error:
        problem = f"the arguments cannot be compared: {foreign.text(error)}; give digest=…, bytes that stand for them"
        raise InvalidTaskError("digest", problem) from error


def _as_json(value: Any) -> Any:
    if foreign.is_a(value, PurePath):
        return str(value)
    dump = foreign.attribute(value, "model_dump")  # a pydantic model's method
    if dump is None or isinstance(value, type):
        raise TypeError(f"a {foreign.kind_name(type(value))} cannot be shown as JSON")
    return dump(mode="json")


def _check_key(key: object) -> str:
    text = foreign.plain(key) if foreign.is_a(key, str) else ""
    if not 0 < len(text) <= MAX_KEY_LENGTH or not text.isprintable():
        raise InvalidTaskError("key", f"must be a text of 1 to {MAX_KEY_LENGTH} printable characters")
    return text
