"""Every metric once: its name, its labels and its sentence. They describe this process; the outcomes of messages are
read from the ledger."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

REQUESTS = Counter(
    "tocsin_requests_total", "API requests by route and HTTP status.", ("route", "status"), registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "tocsin_request_seconds",
    "Seconds from a request's head to its answer, by route.",
    ("route",),
    buckets=SECONDS,
    registry=REGISTRY,
)
SEND_SECONDS = Histogram(
    "tocsin_send_seconds",
    "Seconds from a request of /1/send to the vendor's answer to one of its messages, by channel.",
    ("channel",),
    buckets=SECONDS,
    registry=REGISTRY,
)
RECORDS = Counter("tocsin_records_total", "Upload records by result.", ("result",), registry=REGISTRY)
RECEIPTS = Counter(
    "tocsin_receipts_total", "Answers of vendors by provider and outcome.", ("provider", "outcome"), registry=REGISTRY
)
LANE_STOPS = Counter(
    "tocsin_lane_stops_total",
    "Lanes that stopped, paused or braked, by reason.",
    ("provider", "reason"),
    registry=REGISTRY,
)
FEEDBACK = Counter(
    "tocsin_feedback_total", "Unsubscribes and mails that came back, by what they were.", ("result",), registry=REGISTRY
)
REPORTS = Counter(
    "tocsin_reports_total",
    "Reports of views and clicks, by how they came and what became of them.",
    ("way", "result"),
    registry=REGISTRY,
)
REFUSED_LOGINS = Counter(
    "tocsin_refused_logins_total", "Log-ins that were refused, by reason.", ("reason",), registry=REGISTRY
)
APP_REPORTS = Counter(
    "tocsin_app_reports_total", "What apps' SDKs reported, by what became of it.", ("result",), registry=REGISTRY
)
WEBHOOK_POSTS = Counter(
    "tocsin_webhook_posts_total", "Batches posted to webhooks, by what became of them.", ("result",), registry=REGISTRY
)
WEBHOOKS_DISABLED = Counter(
    "tocsin_webhooks_disabled_total", "Webhooks that were disabled, by reason.", ("reason",), registry=REGISTRY
)
FACTS_TROUBLES = Counter(
    "tocsin_facts_troubles_total",
    "Inserts that the facts store did not take and that were tried again or given up, by what troubled it.",
    ("kind",),
    registry=REGISTRY,
)
EXPORT_ROWS = Counter(
    "tocsin_export_rows_total", "Rows written to files of exports, by what they are.", ("dataset",), registry=REGISTRY
)
EXPORT_FAILURES = Counter(
    "tocsin_export_failures_total", "Files of exports that could not be written and are tried again.", registry=REGISTRY
)
CHUNKS_OPEN = Gauge("tocsin_chunks_open", "Chunks with recipients that are not final yet.", registry=REGISTRY)
RUNS_OVERDUE = Gauge(
    "tocsin_run_overdue_seconds", "How long the oldest due campaign has waited for its start.", registry=REGISTRY
)
DELETIONS_WAITING = Gauge(
    "tocsin_deletions_waiting", "Deleted people whom the facts store has not erased yet.", registry=REGISTRY
)
DELETION_AGE = Gauge(
    "tocsin_deletion_oldest_seconds", "How long the oldest of them has waited to be erased.", registry=REGISTRY
)
DRIFT = Gauge(
    "tocsin_drift",
    "Recipients that ledger, kept sums and facts do not agree about, by what differs.",
    ("kind",),
    registry=REGISTRY,
)


def render_metrics() -> bytes:
    """Return every metric in the Prometheus text format."""
    return generate_latest(REGISTRY)
