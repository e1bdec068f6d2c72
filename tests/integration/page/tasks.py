"""The tasks that the page shows in its tests."""

from __future__ import annotations

import asyncio

from qorzen_obs.core.current_task import current_task

#: Markup, for every place that must show it as text.
PAYLOAD = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


async def working(gate: asyncio.Event, reported: asyncio.Event) -> None:
    """Report some progress, say so, and go on until the gate opens."""
    current_task().progress(40, "4 of 10 files")
    reported.set()
    await gate.wait()


async def failing(message: str) -> None:
    """Fail with this message."""
    raise ValueError(message)
