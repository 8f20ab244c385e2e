"""Numbers of many campaigns and requests at once: by tag group, by label, and campaigns of some days."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import get, post
from tocsin.api.http import PRIVATE, answer
from tocsin.api.targets import read_days
from tocsin.campaign.local_time import read_day
from tocsin.campaign.schedule import LATEST_YEAR
from tocsin.campaign.spec import LATEST_ID
from tocsin.errors import Invalid, Problem, read_struct, show
from tocsin.stats.messages import MessageFilter, list_messages
from tocsin.stats.report.formats import MEDIA_TYPES, Format, write_report
from tocsin.stats.report.report import CAMPAIGNS, compare_reports, read_report
from tocsin.stats.report.scope import COLUMNS, Column, ReportScope
from tocsin.stats.results import add_up, count_labels, count_tag_groups
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

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
OF_ONE = frozenset(("campaign", "run", "label", "day", "hour"))  # columns whose values two campaigns do not share
FIRST_YEAR = 2000
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


class ReportsJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a report is asked for. campaigns: 0 means the sends by identity. earlier: the campaign that the only one is
    compared with."""

    by: Annotated[tuple[Column, ...], Meta(max_length=len(COLUMNS))] = ()
    campaigns: Annotated[tuple[Annotated[int, Meta(ge=0, le=LATEST_ID)], ...], Meta(max_length=CAMPAIGNS)] | None = None
    labels: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    earlier: Annotated[int, Meta(ge=1, le=LATEST_ID)] | None = None
    first: int | str | None = msgspec.field(name="from", default=None)
    last: int | str | None = msgspec.field(name="to", default=None)
    format: Format = "json"

    def __post_init__(self) -> None:
        if len(set(self.by)) < len(self.by):
            raise Invalid("each column may be named once", ".by")
        if self.earlier is None:
            return
        if self.campaigns is None or len(self.campaigns) != 1 or self.labels:
            raise Invalid("one campaign is compared with an earlier one: name it in campaigns", ".earlier")
        if alone := sorted(OF_ONE & set(self.by)):
            raise Invalid(f"no {alone[0]} has an earlier one to compare with", ".by")


async def show_any(context: Context, request: Request) -> Response:
    """Show the numbers by any columns, as JSON, CSV or Parquet."""
    account, body = await context.read(request)
    return await answer_report(context, account, body)


async def answer_report(context: Context, account: Account, body: Mapping[str, Any]) -> Response:
    """Return the answer to a report's question. Raise Problem."""
    content, media_type = await make_report(context.ledger, context.facts, account, body)
    return Response(content, headers=PRIVATE, media_type=media_type)


async def make_report(ledger: Ledger, facts: Facts, account: Account, body: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the report of a question, and its media type. Raise Problem."""
    asked = read_struct({key: value for key, value in body.items() if value is not None}, ReportsJson)
    first, last = (_read_day(name, day) for name, day in (("from", asked.first), ("to", asked.last)))
    if first and last and first > last:
        raise Problem("The from date cannot be after the to date (at $.from)")
    scope = ReportScope(
        account=account, by=asked.by, campaigns=asked.campaigns, labels=asked.labels, first=first, last=last
    )
    if asked.earlier is None:
        report = await read_report(ledger, facts, scope)
    else:
        report = await compare_reports(ledger, facts, scope, asked.earlier)
    return await asyncio.to_thread(write_report, report, asked.format), MEDIA_TYPES[asked.format]


def _read_day(name: str, given: int | str | None) -> date | None:
    if given is None:
        return None
    day = read_day(given)
    if day is None or not FIRST_YEAR <= day.year < LATEST_YEAR:
        raise Problem(f"{name} must be an integer YYYYMMDD (at $.{name})")
    return day


ENDPOINTS = [
    get("/1/tag_groups.json", show_tag_groups),
    get("/1/labels.json", show_labels),
    post("/1/message/report.json", show_report, right="read"),
    post("/1/reports.json", show_any, right="read"),
]
