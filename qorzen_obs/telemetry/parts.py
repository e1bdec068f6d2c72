"""The parts with which a service observes its task manager. Each default means that there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry.exemplars import Exemplars, IfSampled
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from qorzen_obs.telemetry.traces import Traces  # which imports the SDK

#: Takes the encoded spans that end in worker processes, see telemetry/remote_spans.py.
OnSpans = Callable[[Sequence[Any]], None]


def _nowhere() -> None:
    """Return no address: there is no ops plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryParts:
    """The observing parts of one manager, assembled by the composition root."""

    settings: TelemetrySettings = field(default_factory=TelemetrySettings)
    status: Callable[[], dict[str, Any]] = dict  #: the content of `status()["telemetry"]`
    on_spans: OnSpans | None = None
    redactor: Redactor = field(default_factory=Redactor)
    lost: Callable[[], Mapping[str, int]] = dict  #: what the log has lost, by kind of `qorzen_events_dropped`
    exemplars: Exemplars = field(default_factory=IfSampled)  #: who writes those of the task metrics
    spans: Traces | None = None  #: the recent traces
    ops_url: Callable[[], str | None] = _nowhere  #: the address of the ops plane, once there is one
    #: whether an exporter asks for them; then each observation costs a little more
    exponential_histograms: bool = False
    gil_watch: GilWatch | None = None  #: only for a program that owns its process
