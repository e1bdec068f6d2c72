"""What a drawing of `top` is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from qorzen_obs.cli.top.poll import Snapshot, Trouble
from qorzen_obs.cli.top.view import Row, View


@dataclass(frozen=True, slots=True)
class Size:
    """Of the terminal."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a drawing is made of."""

    url: str
    view: View
    size: Size
    now: datetime  #: here
    monotonic: float  #: here
    rows: Sequence[Row] = ()
    snapshot: Snapshot | None = None
    trouble: Trouble | None = None
