"""`/1/profile.json`, `/1/person.json`, `/1/profiles.json`, `/1/events.json`: people and events read back, by cursors in
every style.

A question, as a body or as `query` in the address, is answered with a cursor; a cursor with a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, Handler
from tocsin.api.http import answer, read_object
from tocsin.api.segments import load_named
from tocsin.audience.node import Did, DidSum, Query, walk
from tocsin.audience.query import find_segment, read_where, split_base
from tocsin.errors import Problem, read_struct
from tocsin.ingest.identity import find_users
from tocsin.ingest.record import RESTRICTED_EVENTS, read_email
from tocsin.stats.export.cursor import Cursor, Kind, seal, unseal
from tocsin.stats.export.dossier import read_dossier
from tocsin.stats.export.page import find_last_user, read_events, read_profile, read_profiles
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

SIZE, MOST = 100, 5000  # records of a page; clients ask for up to 50,000, and get MOST
PERSON = {"identity": "identity", "email": "Email", "objectId": "objectId", "FBID": "FBID", "GPID": "GPID"}
NOT_EXPORTED = "Notification Sent"  # there are as many as messages, and CleverTap exports none of them
PREDEFINED = {"Charged", "App Installed", *RESTRICTED_EVENTS}  # known to every account
# In the body of an export beside the question: what the real service ignores there as well.
BESIDE = ("groups", "batch_size")


class ExportPageJson(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the address of an export."""

    batch_size: Annotated[int, Meta(ge=1)] = SIZE
    app: bool = True
    profile: bool = True
    events: bool = False


async def show_profile(context: Context, request: Request) -> Response:
    """Show one person, by an identity."""
    account = await _enter(context, request)
    user = await _find_person(context.ledger, account, request.query_params)
    return answer({"status": "success", "record": await read_profile(context.ledger, context.facts, account, user)})


async def show_everything(context: Context, request: Request) -> Response:
    """Show everything about one person, by an identity, page by page."""
    account = await _enter(context, request)
    return answer(await export_person(context.ledger, context.facts, account, request.query_params))


async def export_person(ledger: Ledger, facts: Facts, account: Account, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of everything about the person that is named. Raise Problem 404 for nobody."""
    text = asked.get("page") or "1"
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise Problem("page must be a whole number from 1 to 999999 (at $.page)")
    user = await _find_person(ledger, account, asked)
    return {"status": "success", **await read_dossier(ledger, facts, account, user, int(text))}


async def _find_person(ledger: Ledger, account: Account, asked: Mapping[str, str]) -> int:
    """Return the user that a request names. Raise Problem 404 for nobody."""
    named = [name for name in PERSON if asked.get(name)]
    if len(named) != 1:
        raise Problem(f"Name one person, by one of {', '.join(PERSON)} in the address")
    # A client that appends an address as it is means a plus, which reads as a space.
    text = asked[named[0]]
    value = read_email(text.strip().replace(" ", "+")) if named[0] == "email" else text
    key = (PERSON[named[0]], value)
    users = await ledger.read(lambda connection: find_users(connection, account.id, [key]))
    if key not in users:
        raise Problem(f"Nobody has the {named[0]} {text[:80]!r}", code=404, status=404)
    return users[key]


def _export(kind: Kind) -> Handler:
    async def export(context: Context, request: Request) -> Response:
        account = await _enter(context, request)
        if text := request.query_params.get("cursor"):
            return await _show_page(context, account, kind, text)
        asked = await _read_question(context, request, account)
        cursor = await _begin(context, account, kind, asked, _read_page(request))
        sealed = await context.ledger.read(lambda connection: seal(connection, cursor))
        return answer({"status": "success", "cursor": sealed})

    return export


async def _enter(context: Context, request: Request) -> Account:
    """Return the account of a request, which holds one of its places for reads until it ends."""
    account = await context.authenticate(request)
    context.reads.take(account.id, request.scope[HELD])
    return account


async def _show_page(context: Context, account: Account, kind: Kind, text: str) -> Response:
    now = context.clock()
    cursor = await context.ledger.read(lambda connection: unseal(connection, text, kind, account.id, now))
    read = read_profiles if kind == "profiles" else read_events
    records, following = await read(context.ledger, context.facts, account, cursor)
    page: dict[str, Any] = {"status": "success"}
    if records:
        page["records"] = records
    if following is not None:
        page["next_cursor"] = await context.ledger.read(lambda connection: seal(connection, following))
    return answer(page)


async def _read_question(context: Context, request: Request, account: Account) -> dict[str, Any]:
    """Return the question of a request: `query` in the address, else the body."""
    if text := request.query_params.get("query"):
        return read_object(text.encode(), request.scope["path"])
    if request.method != "POST":
        raise Problem("Send a question as the body of a POST or as query, or a cursor")
    return await context.read_json(request, account.id)


async def _begin(
    context: Context, account: Account, kind: Kind, asked: Mapping[str, Any], page: ExportPageJson
) -> Cursor:
    where, query = await read_question(context, account, asked)
    base, rest = split_base(where, query)
    if kind == "events":
        if base is None:
            raise Problem("An export of events needs an event_name, from and to (at $.event_name)")
        if base.event == NOT_EXPORTED:
            raise Problem("Export not allowed for this event")
    elif base is not None:
        rest, base = (base, *rest), None
    await require_events(context.facts, account, query)
    return Cursor(
        kind=kind,
        account=account.id,
        began=context.clock(),
        size=min(page.batch_size, MOST),
        base=base,
        rest=rest,
        last_user=await find_last_user(context.ledger, account.id),
        app=page.app,
        profile=page.profile,
        events=page.events,
    )


async def read_question(
    context: Context, account: Account, asked: Mapping[str, Any], beside: tuple[str, ...] = BESIDE
) -> tuple[dict[str, Any], Query]:
    """Return the question that a body is, and what it means. A client writes null for what it leaves out, and may put
    the question into `where`. Raise Problem for what is none."""
    where = {key: value for key, value in asked.items() if value is not None and key not in beside}
    place = "$"
    if set(where) == {"where"}:
        where, place = where["where"], "$.where"
    segments = await load_named(context.ledger, account, where)
    if set(where) == {"segment"}:
        return where, find_segment(where["segment"], segments, f"{place}.segment")
    return where, read_where(where, segments, place)


async def require_events(facts: Facts, account: Account, query: Query) -> None:
    """Raise Problem, in the documented words and with its status of 200, when a question names events that nobody ever
    raised: an export would be empty, and a misspelled name looks the same."""
    dids = [one for node in walk(query) for one in (node.of if isinstance(node, DidSum) else (node,))]
    names = {one.event for one in dids if isinstance(one, Did)} - PREDEFINED
    rows = await facts.query(
        "SELECT DISTINCT name FROM activity WHERE account = {account:String} AND name IN {names:Array(String)}",
        {"account": account.id, "names": sorted(names)},
    )
    if unknown := sorted(names - {str(name) for (name,) in rows}):
        sentences = [f"Invalid event : {name}" for name in unknown]
        raise Problem(msgspec.json.encode(sentences).decode(), status=200)


def _read_page(request: Request) -> ExportPageJson:
    """Return what the address says of the pages: numbers and Booleans are texts there."""
    given = {name: text for name in ExportPageJson.__struct_fields__ if (text := request.query_params.get(name))}
    values: dict[str, Any] = {
        name: {"true": True, "false": False}.get(text.lower(), text) for name, text in given.items()
    }
    if (size := given.get("batch_size", "")).isascii() and size.isdigit() and len(size) < 10:
        values["batch_size"] = int(size)
    return read_struct(values, ExportPageJson)


def _both(path: str, kind: Kind) -> Endpoint:
    handler = _export(kind)
    return Endpoint(path, {"GET": handler, "HEAD": handler, "POST": handler}, right="export")


ENDPOINTS = [
    Endpoint("/1/profile.json", {"GET": show_profile, "HEAD": show_profile}, right="export"),
    Endpoint("/1/person.json", {"GET": show_everything, "HEAD": show_everything}, right="export"),
    _both("/1/profiles.json", "profiles"),
    _both("/1/events.json", "events"),
]
