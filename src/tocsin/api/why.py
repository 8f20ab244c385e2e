"""Why somebody got a campaign or not: `why.json`, some people of each outcome, time lines, and what would become of a
campaign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer
from tocsin.api.segments import PERSON, find_named
from tocsin.api.targets import read_campaign, read_id
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.runs import find_campaign, read_stored_spec
from tocsin.campaign.send import read_tag
from tocsin.campaign.spec import Spec
from tocsin.delivery.forecast import find_coming, forecast
from tocsin.delivery.snapshot import PlannedRun
from tocsin.errors import Problem, read_struct
from tocsin.settings import Settings
from tocsin.stats import samples, timeline
from tocsin.stats.export.cursor import seal, unseal
from tocsin.stats.pace import estimate_minutes, find_pace
from tocsin.stats.why import explain_campaign
from tocsin.stats.why_send import explain_send
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

UNKNOWN = "unknown"  # how long a run takes when none of the last day tells


async def show_why(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    asked = (account, body, context.clock(), context.settings, context.compile_pool)
    found = await explain_to(context.ledger, context.facts, *asked)
    return answer({"status": "success", **found})


async def explain_to(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    body: Mapping[str, Any],
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> dict[str, Any]:
    """Return the answer of why.json. Raise Problem for a campaign or a person nobody knows."""
    campaign_id, user = read_id(body), await find_named(ledger, account, body)
    found = await explain_campaign(ledger, facts, account, campaign_id, user, now, settings, compile_pool)
    shown: dict[str, Any] = msgspec.to_builtins(found)
    explanation = shown.pop("explanation")
    asked = {"in": explanation["meant"], "reachable": explanation["reachable"], "why": explanation["why"]}
    return {"verdict": shown.pop("verdict"), **asked, **shown}


async def show_forecast(context: Context, request: Request) -> Response:
    """Show what would become of a campaign that began now: one that is to come, or the body of a create request."""
    account, body = await context.read(request)
    now = context.clock()
    if set(body) == {"id"}:
        campaign_id = read_id(body)
        spec, run = await context.ledger.read(lambda one: _find_run(one, account.id, campaign_id))
    else:
        spec = await read_campaign(context, account, body, now)
        run = plan_first_run(spec)
    found = await foresee_run(context.ledger, context.facts, account, spec, run, now, context.settings)
    return answer({"status": "success", **found})


def plan_first_run(spec: Spec) -> PlannedRun:
    """Return the first run of a campaign that is not made yet."""
    return PlannedRun(0, None if spec.when is None else spec.when.times[0].isoformat(timespec="minutes"))


async def foresee_run(
    ledger: Ledger, facts: Facts, account: Account, spec: Spec, run: PlannedRun, now: float, settings: Settings
) -> dict[str, Any]:
    """Return the answer of forecast.json."""
    found = await forecast(ledger, facts, account, run, spec, now, settings)

    def read(connection: Connection) -> dict[str, Any]:
        pace = find_pace(connection, account.id, spec.channel, now)
        minutes = estimate_minutes(connection, account.id, spec, found.sent, pace)
        return {"minutes": UNKNOWN if minutes is None else minutes, **({} if pace is None else {"pace": pace})}

    numbers = {name: one for name, one in msgspec.to_builtins(found).items() if one is not None}
    return {"forecast": numbers, **await ledger.read(read)}


def _find_run(connection: Connection, account_id: str, campaign_id: int) -> tuple[Spec, PlannedRun]:
    find_campaign(connection, account_id, campaign_id)
    run = find_coming(connection, account_id, campaign_id)
    if run is None:
        raise Problem("No run of this campaign is to come (at $.id)")
    return read_stored_spec(connection, account_id, campaign_id), run


class SendsJson(msgspec.Struct, frozen=True):
    """Which sends by identity: those of a tag group; those without one by default."""

    tag_group: Annotated[str, Meta(max_length=256)] = ""


async def show_send(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    asked = (account, body, context.clock(), context.settings, context.compile_pool)
    found = await explain_send_to(context.ledger, context.facts, *asked)
    return answer({"status": "success", **found})


async def explain_send_to(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    body: Mapping[str, Any],
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> dict[str, Any]:
    """Return the answer of /1/send/why.json. Raise Problem for a person nobody knows."""
    asked, user = read_struct(body, SendsJson), await find_named(ledger, account, body)
    tag_group = read_tag(asked.tag_group)
    shown: dict[str, Any] = msgspec.to_builtins(
        await explain_send(ledger, facts, account, tag_group, user, now, settings, compile_pool)
    )
    return shown


class SampleSizeJson(msgspec.Struct, frozen=True):
    """How many people of each outcome."""

    each: Annotated[int, Meta(ge=1, le=samples.MOST)] = samples.EACH


class TimelineJson(msgspec.Struct, frozen=True):
    """How many moments of a page, and how many days back."""

    limit: Annotated[int, Meta(ge=1, le=timeline.MOST)] = timeline.SIZE
    days: Annotated[int, Meta(ge=1, le=timeline.MOST_DAYS)] = timeline.DAYS


async def show_sample(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    return answer({"status": "success", **await sample(context.ledger, context.facts, account, body)})


async def sample(ledger: Ledger, facts: Facts, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of sample.json."""
    found = await samples.sample_outcomes(ledger, facts, account, read_id(body), read_struct(body, SampleSizeJson).each)
    return {"outcomes": msgspec.to_builtins(found)}


async def show_timeline(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    found = await tell_timeline(context.ledger, context.facts, account, body, context.clock())
    return answer({"status": "success", **found})


async def tell_timeline(
    ledger: Ledger, facts: Facts, account: Account, body: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """Return the answer of timeline.json: the first page for a person, or the page of a cursor."""
    if (text := body.get("cursor")) is not None:
        sealed = str(read_struct(text, str, "$.cursor"))
        cursor = await ledger.read(lambda connection: unseal(connection, sealed, "timeline", account.id, now))
    else:
        asked = read_struct(body, TimelineJson)
        user = await find_named(ledger, account, body)
        cursor = timeline.begin_timeline(account, user, now, asked.limit, asked.days)
    moments, following = await timeline.read_timeline(ledger, facts, account, cursor)
    shown = [{"at": one.at, "kind": one.kind, "what": one.what, **_details(one)} for one in moments]
    if following is None:
        return {"moments": shown}
    return {"moments": shown, "next_cursor": await ledger.read(lambda connection: seal(connection, following))}


def _details(moment: timeline.Moment) -> dict[str, Any]:
    return {"details": moment.details} if moment.details else {}


async def tell(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    body: Mapping[str, Any],
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> dict[str, Any]:
    """Return what `tocsin why` prints: of a person in a campaign or a tag group, of a campaign, or of
    a person."""
    if "tag_group" in body:
        return await explain_send_to(ledger, facts, account, body, now, settings, compile_pool)
    if "id" not in body:
        return await tell_timeline(ledger, facts, account, body, now)
    if any(name in body for name in PERSON):
        return await explain_to(ledger, facts, account, body, now, settings, compile_pool)
    found, campaign_id = await sample(ledger, facts, account, body), read_id(body)
    if await ledger.read(lambda connection: find_coming(connection, account.id, campaign_id)) is None:
        return found
    spec, run = await ledger.read(lambda connection: _find_run(connection, account.id, campaign_id))
    return {**found, **await foresee_run(ledger, facts, account, spec, run, now, settings)}


async def tell_locally(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    body = await context.read_json(request, account.id)
    asked = (account, body, context.clock(), context.settings, context.compile_pool)
    found = await tell(context.ledger, context.facts, *asked)
    return answer({"status": "success", **found})


ENDPOINTS = [
    post("/1/targets/why.json", show_why, right="export"),
    post("/1/send/why.json", show_send, right="export"),
    post("/1/targets/forecast.json", show_forecast, right="read"),
    post("/1/targets/sample.json", show_sample, right="export"),
    post("/1/profile/timeline.json", show_timeline, right="export"),
    post("/local/why", tell_locally),
]
