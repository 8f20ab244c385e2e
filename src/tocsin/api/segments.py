"""`/1/segments/…`: questions kept by a name, and why somebody is in an audience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer
from tocsin.audience.condition import PARSE
from tocsin.audience.explain import explain_person, explain_query
from tocsin.audience.query import find_segment, named_segments, read_where
from tocsin.audience.segment import (
    Segment,
    check_size,
    delete_segment,
    list_segments,
    load_segments,
    read_name,
    save_segment,
)
from tocsin.errors import Problem, read_struct
from tocsin.ingest.identity import find_users
from tocsin.ingest.record import read_email
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

PersonName: Any = Annotated[Annotated[str, Meta(min_length=1)] | int, Meta(extra={"is": "a text"})]
PERSON = {"identity": "identity", "objectId": "objectId", "FBID": "FBID", "GPID": "GPID", "Email": "Email"}
PAGE = 100


class PageJson(msgspec.Struct, frozen=True):
    """Which page of a list, and how many on each."""

    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    limit: Annotated[int, Meta(ge=1, le=PAGE)] = PAGE


async def save(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    return answer({"status": "success", "name": await keep_segment(context, account, body)})


async def keep_segment(context: Context, account: Account, body: Mapping[str, Any]) -> str:
    """Save a question by a name, and return the name. Raise Problem."""
    if "where" not in body:
        raise Problem(PARSE)
    check_size(body["where"])
    query = read_where(body["where"], await load_named(context.ledger, account, body["where"]))
    segment = Segment(read_name(body.get("name")), body["where"], query)
    now = context.clock()
    await context.ledger.write(lambda connection: save_segment(connection, account.id, segment, now))
    return segment.name


async def show_all(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    asked = read_struct(body, PageJson)
    page, limit = asked.page, asked.limit
    offset = (page - 1) * limit
    found, total = await context.ledger.read(lambda connection: list_segments(connection, account.id, offset, limit))
    some = [{"name": name, "changed_at": int(at)} for name, at in found.items()]
    return answer({"status": "success", "segments": some, "total_pages": -(-total // limit)})


async def show(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    name = read_name(body.get("name"))
    found = await context.ledger.read(lambda connection: load_segments(connection, account.id, [name]))
    if not found:
        raise Problem(f"There is no segment {name!r} (at $.name)")
    segment = found[0]
    shown = {"name": segment.name, "where": segment.where, "changed_at": int(segment.changed_at)}
    return answer({"status": "success", "segment": shown})


async def delete(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    name = read_name(body.get("name"))
    if not await context.ledger.write(lambda connection: delete_segment(connection, account.id, name)):
        raise Problem(f"There is no segment {name!r} (at $.name)")
    return answer({"status": "success"})


async def explain(context: Context, request: Request) -> Response:
    account, body = await context.read(request)
    found = await explain_where(context.ledger, context.facts, account, body, context.clock())
    return answer({"status": "success", **found})


async def explain_where(
    ledger: Ledger, facts: Facts, account: Account, body: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """Return the answer of explain.json. Raises Problem for a question that is wrong or a person nobody knows."""
    if "where" not in body and "segment" not in body:
        raise Problem(PARSE)
    segments = await load_named(ledger, account, body)
    if "where" in body:
        query = read_where(body["where"], segments)
    else:
        query = find_segment(body["segment"], segments, "$.segment")
    if not any(name in body for name in PERSON):
        cost = await explain_query(facts, account, query, now)
        found: dict[str, Any] = msgspec.to_builtins(cost)
        return found
    user = await find_named(ledger, account, body)
    verdict = await explain_person(facts, account, query, user, now)
    return {"in": verdict.meant, "reachable": verdict.reachable, "why": verdict.why}


async def load_named(ledger: Ledger, account: Account, body: Any) -> dict[str, Any]:
    """Return the saved segments that a request names."""
    names = named_segments(body) - {"all"}
    if not names:
        return {}
    found = await ledger.read(lambda connection: load_segments(connection, account.id, names))
    return {one.name: one.query for one in found}


async def find_named(ledger: Ledger, account: Account, body: Mapping[str, Any]) -> int:
    """Return the user whom a request names. Raise Problem when it names nobody, or one whom nobody knows."""
    name = next((name for name in PERSON if name in body), None)
    if name is None:
        raise Problem(f"Name one person, by one of {', '.join(PERSON)} (at $.identity)")
    text = str(read_struct(body[name], PersonName, f"$.{name}"))
    key = (PERSON[name], read_email(text) if name == "Email" else text)
    users = await ledger.read(lambda connection: find_users(connection, account.id, [key]))
    if key not in users:
        raise Problem(f"Nobody has the {name} {text[:80]!r} (at $.{name})")
    return users[key]


ENDPOINTS = [
    post("/1/segments/save.json", save, right="send"),
    post("/1/segments/list.json", show_all, right="read"),
    post("/1/segments/get.json", show, right="read"),
    post("/1/segments/delete.json", delete, right="send"),
    post("/1/segments/explain.json", explain, right="read"),
]
