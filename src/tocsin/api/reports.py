"""Numbers of many campaigns and requests at once: by tag group, by label, and campaigns of some days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import get, post
from tocsin.api.http import answer
from tocsin.api.targets import read_days
from tocsin.errors import Problem, read_struct, show
from tocsin.stats.messages import MessageFilter, list_messages
from tocsin.stats.results import add_up, count_labels, count_tag_groups

# What a report may be asked for; some of it nothing here ever is.
KNOWN = {
    "channel": (
        *("push", "email", "sms", "browser", "audiences", "inapp", "webhooks", "web_pop_up", "web_exit_intent"),
        *("web_native_display", "web_inbox", "whatsapp"),
    ),
    "delivery": ("one_time", "inaction", "action", "recurring", "property_time", "api", "multiple_dates"),
    "status": ("scheduled", "running", "stopped", "completed", "missed"),
    "message_type": ("single", "ab", "message_on_user_property"),
}
Names: Any = Annotated[
    Annotated[tuple[str, ...], Meta(max_length=100)] | str, Meta(extra={"is": "a list of at most 100 texts"})
]


async def show_tag_groups(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    groups = await count_tag_groups(context.ledger, context.facts, account.id)
    total = add_up(groups.values())
    return answer({"status": "success", "tag_groups": groups, "total": total})


async def show_labels(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    found = await count_labels(context.ledger, context.facts, account.id)
    return answer({"status": "success", "labels": found})


class ReportJson(msgspec.Struct, frozen=True):
    """Which campaigns a report lists, beside `from` and `to`. Clients also send one text with commas."""

    channel: Names = ()
    delivery: Names = ()
    status: Names = ()
    message_type: Names = ()
    label: Names = ()


async def show_report(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    asked = read_struct({key: value for key, value in body.items() if value is not None}, ReportJson)
    filters = MessageFilter(
        channels=_split("channel", asked.channel),
        deliveries=_split("delivery", asked.delivery),
        states=_split("status", asked.status),
        kinds=_split("message_type", asked.message_type),
        labels=_split("label", asked.label),
    )
    due, now = read_days(body, account), context.clock()
    found = await list_messages(context.ledger, context.facts, account, due, filters, now)
    return answer({"status": "success", "total_results": len(found), "messages": found})


def _split(field: str, names: Sequence[str] | str) -> list[str]:
    """Return the names of a filter. Raise Problem for one that nothing is called: no campaign would have it."""
    those = [name for one in (names.split(",") if isinstance(names, str) else names) if (name := one.strip())]
    if unknown := [one for one in those if field in KNOWN and one not in KNOWN[field]]:
        raise Problem(f"{field} must be of {', '.join(KNOWN[field])}, not {show(unknown[0])} (at $.{field})")
    return those


ENDPOINTS = [
    get("/1/tag_groups.json", show_tag_groups),
    get("/1/labels.json", show_labels),
    post("/1/message/report.json", show_report, right="read"),
]
