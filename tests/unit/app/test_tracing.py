"""Traces arrive at a collector: calls below their callers, questions below calls, linked to the writers' spans."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.read_changes_pb2 import ReadChangesRequest
from changefeed_client import BEGINNING, collection
from changefeed_gateway.app.monitoring.tracing import MOST_LINKS, Tracing
from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.model import Change, ChangeType, Cursor, ItemState, Key, Page, PartitionId
from changefeed_gateway.providers.memory import provider as memory
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.settings import MemoryConnection
from changefeed_gateway.settings.model import TracingSettings
from tests.monitored import Monitored, monitored

MEMORY = {"main": MemoryConnection(provider="memory")}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{SPAN}-01"
SECRET = "hunter2"


class Collector:
    """Takes what OTLP sends over HTTP."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        taken = self.raw

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        requests = map(ExportTraceServiceRequest.FromString, self.raw)
        return [s for request in requests for r in request.resource_spans for sc in r.scope_spans for s in sc.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> list[MemoryProvider]:
    made: list[MemoryProvider] = []

    class Kept(MemoryProvider):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(memory, "MemoryProvider", Kept)
    return made


async def read(gateway: Monitored, name: str, traceparent: str) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(gateway.gateway.target) as channel:
        request = ReadChangesRequest(address=collection(name), start_position=BEGINNING)
        call = ChangeFeedServiceStub(channel).ReadChanges(request, metadata=(("traceparent", traceparent),))
        code: grpc.StatusCode = await call.code()
        return code


def facts(span: Span) -> dict[str, str]:
    return {a.key: a.value.string_value or str(a.value.int_value) for a in span.attributes}


async def test_spans_stand_below_the_callers_and_link_to_the_writers(
    collector: Collector, provider: list[MemoryProvider]
) -> None:
    tracing = TracingSettings(endpoint=collector.endpoint, share=0)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with monitored(MEMORY, tracing=tracing) as gateway:
            documents = provider[0].store.find("documents")
            assert documents is not None
            for number in range(2 * MOST_LINKS):
                writer = f'{{"traceparent":"00-{number + 1:032x}-{number + 1:016x}-01","note":"{SECRET}"}}'
                documents.put(SECRET, str(number), {"secret": SECRET}, annotations=writer)
            for odd in ('{"traceparent":1}', '["traceparent"]', '{"traceparent":"00-0-0-0"}', '{"traceparent"', ""):
                documents.put(SECRET, "odd", {}, annotations=odd)
            assert await read(gateway, "main/documents", CALLER) is grpc.StatusCode.OK
            assert await read(gateway, "main/nothing", CALLER) is grpc.StatusCode.NOT_FOUND
            assert await read(gateway, "main/documents", "") is grpc.StatusCode.OK
            assert await read(gateway, "main/documents", CALLER.replace("-01", "-00")) is grpc.StatusCode.OK
    calls = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    good, bad = sorted(calls, key=lambda span: span.status.code)
    assert (good.name, good.trace_id.hex(), good.parent_span_id.hex()) == ("changefeed.v1/ReadChanges", TRACE, SPAN)
    assert facts(good)["rpc.grpc.status_code"] == "OK"
    assert facts(good)["changefeed.collection"] == "documents"
    assert (bad.status.code, facts(bad)["error.type"]) == (Status.STATUS_CODE_ERROR, "COLLECTION_NOT_FOUND")
    assert not bad.status.message
    below = [span for span in collector.spans if span.parent_span_id == good.span_id]
    assert {span.name for span in below} >= {"provider open_feed", "provider read_page"}
    assert all(good.start_time_unix_nano <= span.end_time_unix_nano <= good.end_time_unix_nano for span in below)
    links = [link.trace_id.hex() for span in below for link in span.links]
    assert len(links) <= 2 * MOST_LINKS, "bounded for each page"
    assert f"{1:032x}" in links
    finished = [line for line in lines if line["event"] == "call finished"]
    assert [line.get("trace_id") for line in finished][:2] == [TRACE, TRACE]
    assert all(line["trace_id"] for line in finished), "one that begins here has an id too"
    assert SECRET.encode() not in b"".join(collector.raw)
    assert not any(span.events for span in collector.spans)


class NeverSingle(Columns):
    def __iter__(self) -> Iterator[Change]:
        raise AssertionError("single changes are put together")


async def test_a_page_is_linked_to_its_writers_and_no_single_change_is_put_together(collector: Collector) -> None:
    writer = f'{{"traceparent":"{CALLER}"}}'
    change = Change("1", ChangeType.UPDATE, Key("k", ()), ItemState.OMITTED, None, None, PartitionId("p"), "1")
    changes = NeverSingle.of_rows(list(Columns.of([change._replace(annotations=writer), change]).rows()))
    page = Page(changes=changes, cursors=(), start=Cursor(b""), cursor=Cursor(b""), more_available=False)
    tracing = Tracing(collector.endpoint, share=1, instance="test")
    tracing.question("main", "read_page", 0.1, page, None)
    await tracing.aclose()
    (span,) = collector.spans
    assert [link.trace_id.hex() for link in span.links] == [TRACE]
    assert facts(span)["changefeed.changes"] == "2"


def test_the_libraries_are_not_loaded_before_they_are_needed() -> None:
    late = {"prometheus_client", "opentelemetry", "jwt", "cryptography"}
    asked = f"import changefeed_gateway.app.gateway, sys; print({late} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


async def test_without_traces_the_log_has_the_callers_trace() -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with monitored(MEMORY) as gateway:
            await read(gateway, "main/documents", CALLER)
            await read(gateway, "main/documents", f"00-{TRACE}-{SPAN}-zz")
    with_trace, without = [line for line in lines if line["event"] == "call finished"]
    assert with_trace["trace_id"] == TRACE
    assert "trace_id" not in without


async def test_a_collector_that_is_away_harms_nobody_and_is_left_alone_at_the_end() -> None:
    tracing = TracingSettings(endpoint="http://127.0.0.1:1/v1/traces", share=1)
    async with monitored(MEMORY, tracing=tracing) as gateway:
        assert await read(gateway, "main/documents", CALLER) is grpc.StatusCode.OK
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "end of tracing"))]
