"""A collector for tests: takes OTLP over HTTP or gRPC as any collector does, and keeps what arrived.

Knows nothing of qorzen_obs.
"""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.services.http_server import give, http_server
from tests.support import PATIENCE_SECONDS


class OtlpReceiver:
    """Listens on a free port of 127.0.0.1 while the `with` block lasts; answers each export with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[ExportTraceServiceRequest] = []
        self.log_requests: list[ExportLogsServiceRequest] = []
        self.metric_requests: list[ExportMetricsServiceRequest] = []
        self._arrived = threading.Condition()
        self.endpoint = ""  #: for OTEL_EXPORTER_OTLP_ENDPOINT
        self._listening = ExitStack()

    def __enter__(self) -> Self:
        self.endpoint = self._listening.enter_context(http_server(self._answer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()

    @property
    def spans(self) -> list[Span]:
        """The spans that arrived, in order."""
        return [
            span
            for request in list(self.requests)
            for resource_spans in request.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]

    @property
    def log_records(self) -> list[LogRecord]:
        """The log records that arrived, in order."""
        return [
            record
            for request in list(self.log_requests)
            for resource_logs in request.resource_logs
            for scope_logs in resource_logs.scope_logs
            for record in scope_logs.log_records
        ]

    @property
    def scopes_of_metrics(self) -> list[ScopeMetrics]:
        """The metrics of the last export, by scope."""
        with self._arrived:
            last = self.metric_requests[-1:]
        return [
            scope for request in last for group in request.resource_metrics for scope in group.scope_metrics
        ]

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of the last export, by name; there is one of each."""
        found = [metric for scope in self.scopes_of_metrics for metric in scope.metrics]
        named = {metric.name: metric for metric in found}
        assert len(named) == len(found), "a metric arrived twice"
        return named

    def wait_for_metrics(self, exports: int) -> dict[str, Metric]:
        """Wait until the metrics have arrived so often and return the last."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.metric_requests) >= exports, PATIENCE_SECONDS):
                raise TimeoutError(f"the metrics arrived {len(self.metric_requests)} of {exports} times")
        return self.metrics

    @property
    def logs_by_scope(self) -> dict[str, list[LogRecord]]:
        """The log records that arrived, by the name of their scope."""
        found: dict[str, list[LogRecord]] = {}
        for request in list(self.log_requests):
            for resource_logs in request.resource_logs:
                for scope_logs in resource_logs.scope_logs:
                    found.setdefault(scope_logs.scope.name, []).extend(scope_logs.log_records)
        return found

    @property
    def resources(self) -> list[Resource]:
        return [group.resource for request in list(self.requests) for group in request.resource_spans]

    def wait_for_spans(self, count: int) -> list[Span]:
        """Wait until at least `count` spans have arrived and return them all."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.spans) >= count, PATIENCE_SECONDS):
                raise TimeoutError(f"{len(self.spans)} of {count} spans arrived")
            return self.spans

    def take(self, body: bytes) -> bytes:
        """Keep spans; return the answer."""
        with self._arrived:
            self.requests.append(ExportTraceServiceRequest.FromString(body))
            self._arrived.notify_all()
        answer: bytes = ExportTraceServiceResponse().SerializeToString()
        return answer

    def take_logs(self, body: bytes) -> bytes:
        """Keep log records; return the answer."""
        self.log_requests.append(ExportLogsServiceRequest.FromString(body))
        answer: bytes = ExportLogsServiceResponse().SerializeToString()
        return answer

    def take_metrics(self, body: bytes) -> bytes:
        """Keep metrics; return the answer."""
        with self._arrived:
            self.metric_requests.append(ExportMetricsServiceRequest.FromString(body))
            self._arrived.notify_all()
        answer: bytes = ExportMetricsServiceResponse().SerializeToString()
        return answer

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if request.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        paths = {"/v1/traces": self.take, "/v1/logs": self.take_logs, "/v1/metrics": self.take_metrics}
        take = paths.get(request.path)
        known = take is not None and request.headers["Content-Type"] == "application/x-protobuf"
        status = self.status if known else 404
        answer = take(body) if take is not None and status < 400 else b""
        give(request, status, answer, Content_Type="application/x-protobuf", Content_Length=str(len(answer)))


class OtlpGrpcReceiver(OtlpReceiver):
    """The same over gRPC."""

    def __enter__(self) -> Self:
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_Exports(self),))
        self.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self._listening.callback(lambda: server.stop(None).wait())
        return self


class _Exports(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Takes the three calls of OTLP as bytes."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        service = "/opentelemetry.proto.collector.{}.v1.{}Service/Export"
        self._takes = {
            service.format("trace", "Trace"): receiver.take,
            service.format("logs", "Logs"): receiver.take_logs,
            service.format("metrics", "Metrics"): receiver.take_metrics,
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        take = self._takes.get(handler_call_details.method)
        if take is None:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda body, _: take(body))
