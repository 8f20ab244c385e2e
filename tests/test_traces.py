"""Traces: one `/1/send` request is one tree of spans, from the caller's own span to the vendor's answer, over OTLP."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tocsin.campaign.send import StoredRequest
from tocsin.delivery.traces import open_traces
from tocsin.errors import Misconfigured

CALLER = secrets.token_hex(16)
PARENT = secrets.token_hex(8)
CONTENT = {"title": "Hello", "body": "there"}


class Receiver(ThreadingHTTPServer):
    """A collector that keeps the spans it is sent, and their bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bytes = b""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "TOCSIN_TRACE_SHARE": "0"}


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.bytes += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


def test_one_request_is_one_tree(
    tmp_path: Path, start_server: Callable[..., Server], sandbox: Sandbox, receiver: Receiver
) -> None:
    """The request's span is below the caller's; waiting, claim and settlement below it, the message below its claim.
    A request without a trace of its own is not traced with a share of 0, nor is one of
    a stranger, and no span names a person."""
    server = start_server(tmp_path, receiver.environment | {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"})
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*people(2, prefix="traced", kinds=("fcm",)))
    body = {"to": {"Identity": ["traced-0"]}, "content": CONTENT}
    traced = Caller(server.port, caller.headers | {"traceparent": f"00-{CALLER}-{PARENT}-01"})
    assert traced.post("/1/send/push.json", body)[0] == 200
    assert traced.post("/1/send/push.json", {"to": {}, "content": CONTENT})[0] == 400
    stranger = Caller(server.port, traced.headers | {"X-CleverTap-Passcode": "guessed"})
    assert stranger.post("/1/send/push.json", body)[0] == 401
    assert caller.post("/1/send/push.json", body | {"content": CONTENT | {"title": "Untraced"}})[0] == 200
    wait_for(lambda: sum(one["accepted"] for one in sandbox.counts().values()) == 2)
    assert server.stop() == 0

    assert {span.trace_id.hex() for span in receiver.spans} == {CALLER}
    requests = [one for one in receiver.spans if one.name == "POST /1/send/push.json"]
    assert [one.parent_span_id.hex() for one in requests] == [PARENT] * 2
    [good] = [one for one in requests if one.status.code == 0]
    [bad] = [one for one in requests if one.status.code == 2]
    assert not bad.status.message
    assert not bad.events
    by_name = {span.name: span for span in receiver.spans if span not in requests}
    assert sorted(by_name) == ["claim", "send", "settle", "wait"]
    assert len(receiver.spans) == 6
    parents = {name: span.parent_span_id for name, span in by_name.items()}
    assert parents == {
        "wait": good.span_id,
        "claim": good.span_id,
        "settle": good.span_id,
        "send": by_name["claim"].span_id,
    }
    values = {one.key: one.value.string_value for one in by_name["send"].attributes}
    assert values == {
        "tocsin.channel": "push",
        "tocsin.provider": "fcm",
        "tocsin.platform": "android",
        "tocsin.outcome": "accepted",
    }
    order = [by_name[name] for name in ("claim", "send", "settle")]
    assert all(one.start_time_unix_nano <= one.end_time_unix_nano for one in receiver.spans)
    assert [one.start_time_unix_nano for one in order] == sorted(one.start_time_unix_nano for one in order)
    for secret in ("traced-0", "Hello", caller.headers["X-CleverTap-Passcode"]):
        assert secret.encode() not in receiver.bytes


def test_off_imports_nothing() -> None:
    """A process without an endpoint never loads OpenTelemetry, and what it queues says nothing of traces."""
    code = "import sys, tocsin.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert b"trace" not in msgspec.json.encode(StoredRequest(to={}, content=msgspec.Raw(b"{}")))
    assert open_traces({}, 1.0, "all", "0") is None


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter", "opentelemetry.exporter.otlp"])
def test_an_endpoint_without_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Who asks for traces and has not installed them, or OpenTelemetry's API alone, is told how."""
    for name in [one for one in sys.modules if one.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Misconfigured, match=r"pip install 'tocsin\[traces\]'"):
        open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, 1.0, "all", "0")
