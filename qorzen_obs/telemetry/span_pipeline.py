"""The tracing parts that the managers of a process share: one span processor per provider, a sampler, exporters.

A processor cannot be removed from an SDK provider, so ours stays, and is emptied and filled again. The last manager
that leaves closes the shared parts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, TypeVar

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from qorzen_obs.clock import Clock
from qorzen_obs.telemetry.export import BatchLimits, ExportQueue, quieted
from qorzen_obs.telemetry.exporters import loggers_of
from qorzen_obs.telemetry.forks import ForkSafeLock
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.sampling import TailSampler
from qorzen_obs.telemetry.span_redaction import redact_span
from qorzen_obs.telemetry.span_store import SpanStore
from qorzen_obs.telemetry.task_span import AnySpan, TaskSpanSink, readable

T = TypeVar("T")

_CHAIN: Final = "_qorzen_chain"  # the attribute under which a foreign provider has ours
_JOINING: Final = ForkSafeLock()
_SHUTDOWN_SECONDS: Final = 1.0


class Shared:
    """The parts shared by all that use one of our providers at the same time. Changed under the chain's lock."""

    def __init__(self, sampler: TailSampler) -> None:
        self.sampler = sampler
        self.exports: tuple[Export, ...] = ()
        self._users: tuple[SpanStore, ...] = ()

    def enter(self, store: SpanStore, redactor: Redactor, exports: Sequence[Export]) -> None:
        """Add a manager's store, and the exports that it asks for in addition to the existing ones."""
        for export in self.exports:
            export.redact_by(redactor)
        self.sampler.add(store)
        for export in exports:
            self.sampler.add(export)
            export.queue.start(on_tick=self.sampler.tick)
        self.exports += tuple(exports)
        self._users += (store,)

    def leave(self, store: SpanStore) -> bool:
        """Remove a manager's store; return whether it was the last."""
        self._users = _without(self._users, store)
        if self._users:
            self.sampler.remove(store)
        return not self._users


class Chain(ForkSafeLock, SpanProcessor):
    """Our only processor of a provider: emptied and filled again, since the SDK cannot remove one.

    Hold its lock to change it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._processors: tuple[SpanProcessor, ...] = ()
        self.task_sink: TaskSpanSink | None = None  #: the only processor, if it takes TaskSpans
        self.is_alone = True  #: whether a provider of ours has no other processor
        self.shared: Shared | None = None  #: None while nobody uses it, and on a foreign provider

    @staticmethod
    def on(provider: TracerProvider) -> Chain:
        """Return the chain of a foreign provider."""
        with _JOINING.lock:
            chain = getattr(provider, _CHAIN, None)
            if not isinstance(chain, Chain):
                chain = Chain()
                setattr(provider, _CHAIN, chain)
                provider.add_span_processor(chain)
        return chain

    def use(self, shared: Shared) -> None:
        """Pass all spans to its sampler."""
        self.shared, self._processors, self.task_sink = shared, (shared.sampler,), shared.sampler

    def join_others(self) -> None:
        """Note that the provider has other processors, which need each span as the SDK's own."""
        self.is_alone = False

    def watch(self, store: SpanStore) -> None:
        """Pass all spans to a store too, on a foreign provider."""
        with self.lock:
            self._processors += (store,)

    def leave(self, shared: Shared | None, store: SpanStore) -> bool:
        """Remove a manager's store; return whether it was the last user of `shared`, which is then closed."""
        with self.lock:
            if shared is None:
                self._processors = _without(self._processors, store)
                return True
            is_last = shared.leave(store)
            if is_last:
                # It decides the rest, which is then sent, and stays to count spans that come before the next one.
                shared.sampler.close()
                if self.shared is shared:
                    self.shared = None
            return is_last

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self._processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self._processors:
            processor.on_end(span)

    def shutdown(self) -> None:
        for processor in self._processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        flushed = [processor.force_flush(timeout_millis) for processor in self._processors]
        return all(flushed)


class Export:
    """One exporter with its queue; it sends once started."""

    def __init__(
        self, name: str, exporter: SpanExporter, limits: BatchLimits, clock: Clock, redactor: Redactor
    ) -> None:
        self.name = name
        self._exporter = exporter
        self._redactors: tuple[Redactor, ...] = (redactor,)
        # as long as the thread lives, since the exporter that it is stuck in may still log
        quiet = ExitStack()
        quiet.enter_context(quieted(loggers_of(exporter), clock))
        self.queue: ExportQueue[AnySpan] = ExportQueue(
            name, self._send, limits, clock=clock, close=exporter.shutdown, on_ended=quiet.close
        )

    def put(self, spans: Sequence[AnySpan], must_keep: bool) -> None:
        self.queue.put(spans)

    def redact_by(self, redactor: Redactor) -> None:
        """Also hide what this redactor hides, since the spans are also those of its manager."""
        if all(redactor.settings != one.settings for one in self._redactors):
            self._redactors += (redactor,)

    def _send(self, spans: Sequence[AnySpan]) -> int:
        # The SDK's exporters do not report a partial success: all or nothing.
        shown = [self._redacted(readable(span)) for span in spans]
        return 0 if self._exporter.export(shown) is SpanExportResult.SUCCESS else len(spans)

    def _redacted(self, span: ReadableSpan) -> ReadableSpan:
        for redactor in self._redactors:
            span = redact_span(span, redactor)
        return span

    def shutdown(self) -> None:
        self.queue.shutdown(_SHUTDOWN_SECONDS)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.queue.flush(timeout_millis / 1000)


def close(exports: Sequence[Export], deadline_seconds: float) -> bool:
    """Drain all exports at once; return whether each had sent everything by the deadline."""
    deadline = time.monotonic() + deadline_seconds
    for export in exports:
        export.queue.begin_shutdown()
    sent = [export.queue.shutdown(max(0.0, deadline - time.monotonic())) for export in exports]
    return all(sent)


def send(exports: Sequence[Export], deadline_seconds: float) -> bool:
    """Send what waits; return whether all of it was accepted by the deadline."""
    deadline = time.monotonic() + deadline_seconds
    failed = [export.queue.failed for export in exports]
    sent = [export.queue.flush(max(0.0, deadline - time.monotonic())) for export in exports]
    return all(sent) and failed == [export.queue.failed for export in exports]


def _without(items: tuple[T, ...], item: object) -> tuple[T, ...]:
    return tuple(one for one in items if one is not item)
