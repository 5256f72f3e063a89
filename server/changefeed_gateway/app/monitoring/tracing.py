"""Traces by OpenTelemetry, sent by OTLP: a span for each call, a span for each question to a database.

Imported only where traces are on. No span holds a document, a key, a token or the text of an error.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
    get_current_span,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from changefeed_gateway.core.columns import annotations_of
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import Page

MOST_LINKS: Final = 32
"""Of one page to the spans of its writers."""
_CALLS: Final = "changefeed.v1"
_LAST_SECONDS: Final = 1.0
_NANOSECONDS: Final = 1_000_000_000

# It would tell of each batch that a collector which is away does not take, with a traceback.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


class Tracing:
    """Makes spans and sends them, until it is closed. Implements `core.observation.CallTracing`."""

    def __init__(self, endpoint: str, *, share: float, instance: str) -> None:
        """`share` of the traces that begin here are kept; of those that callers began, the ones that they keep."""
        resource = Resource.create({"service.name": "changefeed-gateway", "service.instance.id": instance})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("changefeed_gateway")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, method: str, request_id: str, traceparent: str) -> Iterator["CallSpan"]:
        """A span around a call, below its caller's; what is asked meanwhile is below it."""
        parent = self._propagator.extract({"traceparent": traceparent}, Context())
        span = self._tracer.start_span(
            f"{_CALLS}/{method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.method": method, "changefeed.request_id": request_id},
        )
        try:
            # Nothing of an exception: its text may repeat what it was given.
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield CallSpan(span)
        finally:
            span.end()

    def question(
        self, connection: str, operation: str, seconds: float, page: Page | None, error: BaseException | None
    ) -> None:
        """A span of a question that is over, linked to those whose writers it brings changes of."""
        now = time.time_ns()
        span = self._tracer.start_span(
            f"provider {operation}",
            kind=SpanKind.CLIENT,
            attributes={"changefeed.connection": connection, "changefeed.operation": operation},
            start_time=now - int(seconds * _NANOSECONDS),
        )
        if span.is_recording():
            if page is not None:
                span.set_attribute("changefeed.changes", len(page.changes))
                for writer in self._writers(annotations_of(page.changes)):
                    span.add_link(writer)
            if error is not None:
                _fail(span, error.reason if isinstance(error, ChangeFeedError) else type(error).__name__)
        span.end(now)

    def _writers(self, annotations: Iterable[bytes]) -> list[SpanContext]:
        """The spans that annotations name by `traceparent`."""
        writers: list[SpanContext] = []
        for text in dict.fromkeys(annotations):
            if len(writers) == MOST_LINKS:
                break
            if b'"traceparent"' in text:
                span = get_current_span(self._propagator.extract({"traceparent": _said(text)}, Context()))
                if (writer := span.get_span_context()).is_valid:
                    writers.append(writer)
        return writers

    async def aclose(self) -> None:
        """Send what there is, and no more after that; a collector that does not take it keeps nobody."""
        closing = threading.Thread(target=self._provider.shutdown, name="end of tracing", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _LAST_SECONDS)
        if closing.is_alive():
            # It would try again for half a minute.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
            await asyncio.to_thread(closing.join, _LAST_SECONDS)


class CallSpan:
    """The span of one call. Implements `core.observation.CallSpan`."""

    def __init__(self, span: Span) -> None:
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self._span = span

    def name(self, connection: str, collection: str) -> None:
        """What the call is about."""
        self._span.set_attributes({"changefeed.connection": connection, "changefeed.collection": collection})

    def ended(self, code: str, reason: str) -> None:
        """How it ended."""
        self._span.set_attribute("rpc.grpc.status_code", code)
        if reason:
            _fail(self._span, reason)


def _said(annotations: bytes) -> str:
    """The `traceparent` of an annotation; empty where it is none."""
    with suppress(ValueError, RecursionError):
        said = json.loads(annotations)
        if isinstance(said, dict) and isinstance(found := said.get("traceparent"), str):
            return found
    return ""


def _fail(span: Span, reason: str) -> None:
    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR))
