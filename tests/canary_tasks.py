"""Tasks that put secrets wherever a task can put anything; for the worker processes they must be importable."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import structlog
from opentelemetry import trace

from qorzen_obs import current_task, task

#: In no form that tells: it must not appear because nothing records arguments and results.
BARE = "bare4canary4argument"
#: Recognisable by what stands around it.
CANARY = "canary9Zq"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}{CANARY}\n-----END RSA PRIVATE KEY-----"


#: The name of a class, a task or a plugin is what a program makes of it.
NAMED = f"password={CANARY}"
CanaryError: type[ValueError] = type(NAMED, (ValueError,), {"__module__": __name__})


class Spoken:
    """An object whose repr shows a secret."""

    def __repr__(self) -> str:
        return f"Spoken(password='{CANARY}')"


def fill_telemetry() -> None:
    """Write lines, spans and progress with secrets in each place."""
    mine = structlog.get_logger()
    mine.info(
        f"GET https://me:{CANARY}@host/", api_key=CANARY, value=Spoken(), nested={"a": [{"token": CANARY}]}
    )
    logging.getLogger("user").warning(
        "password=%s", CANARY, extra={"db_password": CANARY, "spoken": Spoken()}
    )
    try:
        fail()
    except ValueError:
        logging.getLogger("user").exception("it failed")
    tracer = trace.get_tracer("user")
    with tracer.start_as_current_span(
        f"GET https://me:{CANARY}@host/", attributes={"db.password": CANARY}
    ) as span:
        span.set_attribute("long", "x" * 1_010 + f" token={CANARY}{CANARY}")
        span.set_attribute("headers", ["Authorization: Bearer " + CANARY, "Host: x"])
        span.add_event("sent", {"http.cookie": CANARY})
        span.record_exception(ValueError(f"token={CANARY}"))
        span.set_status(trace.Status(trace.StatusCode.ERROR, f"secret: {CANARY}"))
    current_task().progress(50, f"with password={CANARY}")


def fail() -> None:
    """Raise an error with secrets in its message, notes, cause and arguments."""
    error = CanaryError(f"api_key='{CANARY}' {Spoken()!r}", {"secret": CANARY})
    error.add_note(f"Authorization: Bearer {CANARY}")
    raise error from RuntimeError("x" * 3_990 + f" postgres://me:{CANARY}@host/db and {PEM}")


def leak(*_: Any, **__: Any) -> None:
    """Fill everything, then fail."""
    fill_telemetry()
    fail()


@task(name=NAMED, max_concurrent=1)
async def hang(started: asyncio.Event) -> None:
    """Wait for an asyncio task whose name is a secret, until somebody cancels."""
    waiting = asyncio.create_task(asyncio.sleep(3_600), name=NAMED)
    asyncio.get_running_loop().call_soon(started.set)
    await waiting


async def leak_on_the_loop(*_: Any, **__: Any) -> str:
    """Fill everything, then return what nobody must see."""
    fill_telemetry()
    return BARE


@task(engine="process")
def leak_in_a_process(*_: Any, **__: Any) -> None:
    """Fill everything, write to the outputs, then fail."""
    sys.stdout.write(f"password={CANARY}\n{PEM}\nthe rest\n")
    sys.stderr.write(f"Cookie: session={CANARY}\n")
    leak()
