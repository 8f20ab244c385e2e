"""Traces of `/1/send`, by OpenTelemetry: a request from its head to the vendors' answers, over all processes it passes.

`active` is None unless an exporter's endpoint is set, and then nothing of OpenTelemetry is imported. Who records asks
for that first. Spans name no person, no content and no credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tocsin.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

# OpenTelemetry's own names; it also reads the headers, the time-out and the certificate of the exporter by itself.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, version 00
NANO = 1e9

active: Traces | None = None


class Traces:
    """Makes spans and exports them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tocsin")

    @contextmanager
    def request(self, route: str, parent: str | None) -> Iterator[str]:
        """Record what is done within the context, as the answer to a request. parent: its `traceparent`. The context's
        value is the span's own, "" when the trace is not sampled."""
        from opentelemetry.trace import SpanKind, StatusCode

        span = self._tracer.start_span(f"POST {route}", _read_context(parent), SpanKind.SERVER, {"http.route": route})
        try:
            yield _write_parent(span)
        except BaseException:  # its sentence may quote the body
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def record(self, name: str, parent: str, began: float, ended: float, values: Mapping[str, str | int]) -> str:
        """Record a span of a past time, in epoch seconds, below another one. Return its `traceparent`."""
        span = self._tracer.start_span(
            name, _read_context(parent), attributes=values, start_time=int(min(began, ended) * NANO)
        )
        span.end(int(ended * NANO))
        return _write_parent(span)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


def open_traces(environment: Mapping[str, str], share: float, role: str, version: str) -> Traces | None:
    """Return the traces of this process and make them active; None when the environment names no endpoint. share: of
    the requests that bring no trace of their own. Raises Misconfigured when OpenTelemetry is not installed."""
    global active  # noqa: PLW0603 - as metrics are: one for the process
    active = None
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    if not _is_installed():
        named = next(name for name in ENDPOINTS if environment.get(name))
        raise Misconfigured(
            f"{named} is set, and OpenTelemetry is not installed: `pip install 'tocsin[traces]'`, or take it away."
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create({"service.name": "tocsin", "service.version": version, "tocsin.role": role})
    provider = TracerProvider(ParentBased(TraceIdRatioBased(share)), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    active = Traces(provider)
    return active


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # a package around it is missing: other libraries bring OpenTelemetry's API alone
        return False


def _read_context(parent: str | None) -> Any:
    """Return the context that a `traceparent` names; a new trace for none, or for what is not one."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None or not PARENT.fullmatch(parent):
        return Context()
    _, trace, span, flags = parent.split("-")
    known = SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1))
    return set_span_in_context(NonRecordingSpan(known), Context())


def _write_parent(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01" if context.trace_flags.sampled else ""
