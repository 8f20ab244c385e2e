"""`/1/targets/…`: campaigns made, stopped, listed, and their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, encode, read_object, replay, require_json_type
from tocsin.api.segments import load_named
from tocsin.audience.members import Survey, count_duplicates, survey_members
from tocsin.campaign.goal import find_revenue
from tocsin.campaign.local_time import read_day
from tocsin.campaign.runs import PAGE, count_campaigns, insert_campaign, stop_campaign
from tocsin.campaign.schedule import LATEST_YEAR
from tocsin.campaign.spec import LATEST_ID, Spec, read_encoded_spec, read_spec
from tocsin.channels import CHANNELS
from tocsin.errors import Problem, read_struct
from tocsin.idempotency import IdempotencyKey, complete, find_answer, keep, read_key
from tocsin.policy import Policy, load_policy
from tocsin.providers.credential import find_named, require_provider
from tocsin.queue import count_in_flight
from tocsin.stats.comparison import compare_groups, show_comparison
from tocsin.stats.results import documented_state, list_targets, read_breakdown, read_result, scheduled_on


class TargetsPageJson(msgspec.Struct, frozen=True):
    """Which page of the list, and how many on each."""

    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    limit: Annotated[int, Meta(ge=1, le=PAGE)] = PAGE


async def create(context: Context, request: Request) -> Response:
    """Make a campaign, or estimate its reach. Raises Problem 429 beyond what an account may create in a second."""
    account = await context.authenticate(request)
    require_json_type(request)
    async with context.creates.admit(account.id, context.clock()):
        return await _create(context, request, account)


async def stop(context: Context, request: Request) -> Response:
    """Stop a campaign; of a running one, also say how many recipients are with the vendors."""
    account, body = await context.read(request)
    campaign_id, now = read_id(body), context.clock()

    def stop_now(connection: Connection) -> dict[str, int]:
        if stop_campaign(connection, account.id, campaign_id, now) != "running":
            return {}
        return {"in_flight": count_in_flight(connection, campaign_id)}

    in_flight = await context.ledger.write(stop_now)
    context.wakeups.runs.notify()
    return answer({"status": "success", **in_flight})


async def show_result(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    campaign_id = read_id(body)
    numbers = await read_result(context.ledger, context.facts, account.id, campaign_id)
    more = await read_breakdown(context.ledger, context.facts, account.id, campaign_id)
    return answer({"status": "success", "result": numbers, **more})


async def compare(context: Context, request: Request) -> Response:
    """Show the groups of a campaign side by side, with how sure the differences between them are."""
    account, body = await context.read(request)
    found = await compare_groups(context.ledger, context.facts, account.id, read_id(body), context.clock())
    return answer({"status": "success", **show_comparison(found)})


async def show_all(context: Context, request: Request) -> Response:
    """List campaigns by pages, without saying so where one page has them all: the documented answer has no more."""
    account, body = await context.read(request)
    due, page = read_days(body, account), read_struct(body, TargetsPageJson)
    offset = (page.page - 1) * page.limit
    found = await list_targets(context.ledger, account.id, due=due, limit=page.limit, offset=offset)
    now, more = context.clock(), {}
    if page.page > 1 or len(found) == page.limit:
        total = await context.ledger.read(lambda connection: count_campaigns(connection, account.id, due))
        more = {"total_pages": -(-total // page.limit)}
    return answer({"status": "success", "targets": [_listed(one, account, now) for one in found], **more})


async def _create(context: Context, request: Request, account: Account) -> Response:
    raw = await context.read_body(request, account.id)
    body, now = read_object(raw, request.scope["path"]), context.clock()
    key = read_key(account.id, request.headers.get("idempotency-key"), request.scope["path"], raw)
    if key is not None:
        kept = await context.ledger.read(lambda connection: find_answer(connection, key, now))
        if kept is not None:
            return replay(kept.answer)
    text, new = await make_campaign(context, account, body, key, now)
    return answer(text) if new else replay(text)


async def make_campaign(
    context: Context, account: Account, body: Mapping[str, Any], key: IdempotencyKey | None, now: float
) -> tuple[str, bool]:
    """Make the campaign of a create request, or estimate its reach. Return the answer as JSON, and False when it is the
    one that the key got before. Raise Problem."""
    spec = await read_campaign(context, account, body, now)
    estimates = {} if body.get("skip_estimate") else await estimate(context, account, spec, now)
    if body.get("estimate_only"):  # Booleans, as `read_spec` has checked
        return encode({"status": "success", "estimates": estimates}), True

    def insert(connection: Connection) -> tuple[str, bool]:
        if key is not None and (before := keep(connection, key, "", now)) is not None:
            return before.answer, False  # the same request twice at once
        made = insert_campaign(connection, account.id, spec, now, account.zone)
        text = encode({"status": "success", "id": made, "estimates": estimates})
        if key is not None:
            complete(connection, key, text)
        return text, True

    found = await context.ledger.write(insert)
    context.wakeups.runs.notify()
    return found


async def read_campaign(context: Context, account: Account, body: Mapping[str, Any], now: float) -> Spec:
    """Return the campaign of a create request. Raise Problem."""
    asked = {key: body[key] for key in ("where", "segment") if key in body}
    segments = await load_named(context.ledger, account, asked)

    def read(connection: Connection) -> tuple[Policy, dict[str, str]]:
        policy = load_policy(connection, account.id)
        return policy, find_named(connection, account.id, policy.provider_names)

    policy, named = await context.ledger.read(read)
    read_told: Callable[..., Spec]
    try:
        read_told = partial(read_encoded_spec, msgspec.json.encode(body))
    except OverflowError:  # a number of more than 64 bits, which is read all the same, and refused with its place
        read_told = partial(read_spec, body)
    spec = await context.compile_pool.run(
        account.id,
        partial(
            read_told,
            account,
            now,
            segments,
            require_channel=context.settings.require_android_channel,
            unsubscribe_link=bool(context.settings.public_url),
            revenue=find_revenue(policy.conversion),
            providers=named,
        ),
    )
    await context.ledger.read(lambda connection: require_provider(connection, account.id, spec.channel))
    return spec


def _listed(target: Mapping[str, Any], account: Account, now: float) -> dict[str, Any]:
    return {
        "id": target["id"],
        "name": target["name"],
        "scheduled_on": scheduled_on(target["due_at"], account.zone),
        "status": documented_state(target["state"], target["due_at"], now),
    }


async def estimate(context: Context, account: Account, spec: Spec, now: float) -> dict[str, int]:
    """Return how many messages a campaign would send now, by the names that an estimate's answer has for platforms."""
    return (await survey(context, account, spec, now)).counts


async def survey(context: Context, account: Account, spec: Spec, now: float, most: int = 0) -> Survey:
    """Return the estimate of a campaign, with at most `most` users of its audience."""
    limit = spec.limit_run()
    asked = (context.facts, account, spec.where)
    counts, some = await survey_members(*asked, spec.platforms, now, limit, spec.subscription_groups, most)
    channel = CHANNELS[spec.channel]
    if channel.property and not spec.send_to_every_profile:
        same = await count_duplicates(*asked, channel, now, limit, spec.subscription_groups)
        counts[channel.platforms[0]] -= same
    name = channel.estimate
    return Survey(counts if not name else {name: counts[spec.channel]}, some)


def read_id(body: Mapping[str, Any]) -> int:
    value = body.get("id")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LATEST_ID:
        raise Problem("Invalid campaign id")
    return value


def read_days(body: Mapping[str, Any], account: Account) -> tuple[float, float]:
    """Return `from` and `to` as the moments between which they lie, both days included, in the account's time zone."""
    first, last = read_day(body.get("from")), read_day(body.get("to"))
    if first is None or last is None:
        key = "from" if first is None else "to"
        raise Problem(f"{key} must be an integer YYYYMMDD (at $.{key})")
    if last.year >= LATEST_YEAR:
        raise Problem(f"to is after {LATEST_YEAR - 1} (at $.to)")
    if first > last:
        raise Problem("The from date cannot be after the to date (at $.from)")
    midnight = time(tzinfo=account.zone)
    return (
        datetime.combine(first, midnight).timestamp(),
        datetime.combine(last + timedelta(days=1), midnight).timestamp(),
    )


ENDPOINTS = [
    post("/1/targets/create.json", create, right="send"),
    post("/1/targets/stop.json", stop, right="send"),
    post("/1/targets/result.json", show_result, right="read"),
    post("/1/targets/compare.json", compare, right="read"),
    post("/1/targets/list.json", show_all, right="read"),
]
