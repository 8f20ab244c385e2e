"""`/1/counts/…` and `/1/now.json`: events and people counted by a question, always in the first answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, Handler, post
from tocsin.api.exports import BESIDE, read_question, require_events
from tocsin.api.http import answer
from tocsin.audience.query import split_base
from tocsin.errors import Invalid, Problem, read_struct
from tocsin.stats.tally import (
    Events,
    Period,
    Ranking,
    count_active,
    count_by_period,
    count_events,
    count_members,
    rank_values,
)

T = TypeVar("T")
GROUPS = 5  # of one question
DAYS = 366  # of a trend
NAMES = Annotated[str, Meta(min_length=1, max_length=120)]
OF_PEOPLE = ("profile_fields", "app_fields", "demographics", "technographics")
PropertyType = Literal[
    "event_properties", "session_properties", "profile_fields", "app_fields", "demographics", "technographics"
]
Show = Callable[[Context, Account, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class RankingJson(msgspec.Struct, frozen=True):
    """A group of `top.json`: which property."""

    property_type: PropertyType
    name: NAMES
    top_n: Annotated[int, Meta(ge=1, le=100)] = 10
    order: Literal["asc", "desc"] = "desc"


class PeriodJson(msgspec.Struct, frozen=True):
    """A group of `trends.json`: by what."""

    trend_type: Period


class TopJson(msgspec.Struct, frozen=True):
    """What `top.json` has beside its question."""

    groups: dict[str, RankingJson]

    def __post_init__(self) -> None:
        _require_few(self.groups)


class TrendsJson(msgspec.Struct, frozen=True):
    """What `trends.json` has beside its question. sum_event_prop: the sum of it instead of the number of events."""

    groups: dict[str, PeriodJson]
    unique: bool = False
    sum_event_prop: NAMES | None = None

    def __post_init__(self) -> None:
        _require_few(self.groups)


def _require_few(groups: Mapping[str, Any]) -> None:
    if not 0 < len(groups) <= GROUPS or "status" in groups:
        raise Invalid(f"there must be 1 to {GROUPS}, and none of them called status", ".groups")


async def show_people(context: Context, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    _, query = await read_question(context, account, body)
    await require_events(context.facts, account, query)
    return {"count": await count_members(context.facts, account, query, context.clock())}


async def show_events(context: Context, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    events = await _read_events(context, account, body)
    return {"count": await count_events(context.facts, account, events, context.clock())}


async def show_top(context: Context, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    asked, events = _read_groups(body, TopJson), await _read_events(context, account, body)
    found: dict[str, Any] = {}
    for name, one in asked.groups.items():
        ranking = Ranking(one.name, one.property_type in OF_PEOPLE, one.top_n, rarest=one.order == "asc")
        found[name] = await rank_values(context.ledger, context.facts, account, events, ranking, context.clock())
    return found


async def show_trends(context: Context, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    asked, events = _read_groups(body, TrendsJson), await _read_events(context, account, body)
    now = context.clock()
    today = datetime.fromtimestamp(now, UTC).astimezone(account.zone).date()
    if (events.base.last.resolve(today) - events.base.first.resolve(today)).days >= DAYS:
        raise Problem(f"A trend has at most {DAYS} days (at $.from)")
    how: dict[str, Any] = {"unique": asked.unique, "summed": asked.sum_event_prop}
    return {
        name: await count_by_period(context.facts, account, events, one.trend_type, now, **how)
        for name, one in asked.groups.items()
    }


async def show_now(context: Context, request: Request) -> Response:
    account, _ = await context.read(request)
    now = context.clock()
    found = {"count": await count_active(context.facts, account, now), "last_processed_ts": int(now)}
    return answer({"status": "success", **found})


def _read_groups(body: Mapping[str, Any], kind: type[T]) -> T:
    """Return what stands beside a question; a client writes null for what it leaves out."""
    return read_struct({key: value for key, value in body.items() if value is not None}, kind, start="invalid group: ")


async def _read_events(context: Context, account: Account, body: Mapping[str, Any]) -> Events:
    where, query = await read_question(context, account, body, (*BESIDE, "unique", "sum_event_prop"))
    base, rest = split_base(where, query)
    if base is None:
        raise Problem("Events are counted by an event_name, from and to (at $.event_name)")
    await require_events(context.facts, account, query)
    return Events(base, rest)


def _ask(show: Show) -> Handler:
    async def ask(context: Context, request: Request) -> Response:
        account, body = await context.read(request)
        return answer({"status": "success", **await show(context, account, body)})

    return ask


async def refuse_partial(context: Context, request: Request) -> Response:
    """Refuse to go on with a question: each is answered whole, in the answer to its POST."""
    await context.authenticate(request)
    raise Problem("invalid request id: every question is answered at once, none is partial (at req_id)")


def _counted(path: str, show: Show) -> Endpoint:
    handlers: dict[str, Handler] = {"GET": refuse_partial, "HEAD": refuse_partial, "POST": _ask(show)}
    return Endpoint(path, handlers, right="read")


ENDPOINTS = [
    _counted("/1/counts/profiles.json", show_people),
    _counted("/1/counts/events.json", show_events),
    _counted("/1/counts/top.json", show_top),
    _counted("/1/counts/trends.json", show_trends),
    post("/1/now.json", show_now, right="read"),
]
