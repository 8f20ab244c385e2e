"""`/1/webhooks/…`: endpoints that an account's outcomes, reports and opt-outs are posted to."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer
from tocsin.errors import read_struct
from tocsin.stats.webhooks import endpoint as endpoints
from tocsin.stats.webhooks.endpoint import EVENT_TYPES, URL_LETTERS, EventType, check_url
from tocsin.stats.webhooks.poster import post_test

WHO = "API"
Moment = Annotated[datetime, Meta(tz=True, extra={"is": "a time with its zone, such as 2026-11-26T08:00:00Z"})]


class NewWebhookJson(msgspec.Struct, frozen=True):
    """An endpoint as it is asked for. events: all of them when there are none."""

    url: Annotated[str, Meta(min_length=1, max_length=URL_LETTERS)]
    events: Annotated[list[EventType], Meta(max_length=len(EVENT_TYPES))] = []


class NamedWebhookJson(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(min_length=1, max_length=40)]


class ReplayJson(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Between which times everything is posted again."""

    id: Annotated[str, Meta(min_length=1, max_length=40)]
    since: Moment
    until: Moment


async def create(context: Context, request: Request) -> Response:
    """Create an endpoint, and show its secret this once."""
    account, body = await context.read(request)
    asked = read_struct(body, NewWebhookJson)
    url = check_url(asked.url, context.settings.webhook_networks)
    given = (account.id, url, asked.events or EVENT_TYPES, context.settings.secret_key, WHO, context.clock())
    made, secret = await context.ledger.write(lambda connection: endpoints.create(connection, *given))
    return answer({"status": "success", **made.describe(), "secret": secret})


async def show_all(context: Context, request: Request) -> Response:
    account, _ = await context.read(request)
    found = await context.ledger.read(lambda connection: endpoints.list_endpoints(connection, account.id))
    return answer({"status": "success", "webhooks": [one.describe() for one in found]})


async def remove(context: Context, request: Request) -> Response:
    account, asked = await _read_named(context, request)
    given = (account, asked.id, WHO, context.clock())
    await context.ledger.write(lambda connection: endpoints.remove(connection, *given))
    return answer({"status": "success"})


async def rotate(context: Context, request: Request) -> Response:
    """Make a new secret, and show it this once; the one before signs as well for a day."""
    account, asked = await _read_named(context, request)
    given = (account, asked.id, context.settings.secret_key, WHO, context.clock())
    secret = await context.ledger.write(lambda connection: endpoints.rotate(connection, *given))
    return answer({"status": "success", "secret": secret})


async def enable(context: Context, request: Request) -> Response:
    """Let a disabled endpoint go on where it was."""
    account, asked = await _read_named(context, request)
    given = (account, asked.id, WHO, context.clock())
    await context.ledger.write(lambda connection: endpoints.enable(connection, *given))
    return answer({"status": "success"})


async def test(context: Context, request: Request) -> Response:
    """Post a batch that says nothing, and tell what came back."""
    account, asked = await _read_named(context, request)
    found = await context.ledger.read(functools.partial(endpoints.find, account_id=account, webhook_id=asked.id))
    said: dict[str, Any] = await post_test(found, context.settings, context.clock())
    return answer({"status": "success" if said["arrived"] else "fail", **said})


async def replay(context: Context, request: Request) -> Response:
    """Post everything again that was stored between two times."""
    account, body = await context.read(request)
    asked = read_struct(body, ReplayJson)
    given = (account.id, asked.id, asked.since.timestamp(), asked.until.timestamp(), context.clock())
    await context.ledger.write(lambda connection: endpoints.replay(connection, *given))
    return answer({"status": "success"})


async def _read_named(context: Context, request: Request) -> tuple[str, NamedWebhookJson]:
    account, body = await context.read(request)
    return account.id, read_struct(body, NamedWebhookJson)


ENDPOINTS = [
    post("/1/webhooks/create.json", create, right="webhook"),
    post("/1/webhooks/list.json", show_all, right="webhook"),
    post("/1/webhooks/remove.json", remove, right="webhook"),
    post("/1/webhooks/rotate.json", rotate, right="webhook"),
    post("/1/webhooks/enable.json", enable, right="webhook"),
    post("/1/webhooks/test.json", test, right="webhook"),
    post("/1/webhooks/replay.json", replay, right="webhook"),
]
