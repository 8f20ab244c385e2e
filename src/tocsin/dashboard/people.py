"""People: somebody is looked up by an identity, and shown with profile, devices and what happened lately."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.dashboard.page import Frame, render
from tocsin.dashboard.visitor import require_member
from tocsin.delivery.recipients import load_people
from tocsin.ingest.people import find_users
from tocsin.ingest.record import read_email
from tocsin.store import schema
from tocsin.store.facts import Facts

HERE = "people"
EVENTS = 50  # of the time line
TIME_LINE_DAYS = 90
TOKEN_LETTERS = 8  # of a device's token that are shown
KINDS = ("identity", "Email", "objectId", "GPID", "FBID")  # in the order in which somebody is looked for
SEARCH_LETTERS = 1024


class ShownDevice(msgspec.Struct, frozen=True):
    """One device. ends: the last letters of its token. gone_at: None for one that is alive."""

    kind: str
    object_id: str
    ends: str
    registered_at: float
    gone_at: float | None
    gone_code: str | None


class ShownPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody. where: the platforms a message would reach. events: (time, name, properties as JSON), newest first."""

    user: int
    identities: list[tuple[str, str]]
    profile: dict[str, Any]
    where: list[str]
    opted_out: list[str]
    devices: list[ShownDevice]
    events: list[tuple[float, str, str]] = []


async def show_people(context: Context, request: Request) -> Response:
    """Show the search, and who has the identity of `?identity=`."""
    visitor, _ = await require_member(context, request, "marketer")
    account, now = visitor.account, context.clock()
    asked = request.query_params.get("identity", "").strip().replace("\0", "")[:SEARCH_LETTERS]
    found = None
    if asked:
        found = await context.ledger.read(lambda connection: find_person(connection, account.id, asked))
    if found is not None:
        context.reads.take(account.id, request.scope[HELD])
        found = msgspec.structs.replace(found, events=await _list_events(context.facts, account, found.user, now))
        await context.ledger.write(lambda one: note(one, account.id, visitor.who, "person looked at", asked, now))
    return render("people.html", frame=Frame(visitor, now, HERE), asked=asked, found=found)


def find_person(connection: Connection, account_id: str, text: str) -> ShownPerson | None:
    """Return who has this identity, of any kind; None when nobody has."""
    keys = [(kind, read_email(text) if kind == "Email" else text) for kind in KINDS]
    users = find_users(connection, account_id, [(kind, value) for kind, value in keys if value])
    user = next((users[key] for key in keys if key in users), None)
    people = {} if user is None else load_people(connection, account_id, [user])
    if user is None or user not in people:
        return None
    identity, device = schema.identity, schema.device
    mine = (identity.c.account_id == account_id, identity.c.user_id == user)
    names = select(identity.c.kind, identity.c.value).where(*mine).order_by(identity.c.kind, identity.c.value)
    columns = [device.c[name] for name in ("kind", "object_id", "token", "registered_at", "gone_at", "gone_code")]
    devices = select(*columns).where(device.c.account_id == account_id, device.c.user_id == user)
    person = people[user]
    return ShownPerson(
        user=user,
        identities=[(row.kind, row.value) for row in connection.execute(names)],
        profile=msgspec.json.decode(person.profile),
        where=[platform for platform, addresses in person.addresses.items() if addresses],
        opted_out=sorted(person.opted_out),
        devices=[
            ShownDevice(
                row.kind, row.object_id, row.token[-TOKEN_LETTERS:], row.registered_at, row.gone_at, row.gone_code
            )
            for row in connection.execute(devices.order_by(device.c.registered_at.desc()))
        ],
    )


async def _list_events(facts: Facts, account: Account, user: int, now: float) -> list[tuple[float, str, str]]:
    rows = await facts.query(
        "SELECT toUnixTimestamp(at), name, raw FROM event FINAL "
        "WHERE account = {account:String} AND user = {user:UInt32} AND day >= toDate(toDateTime({since:UInt32})) "
        "ORDER BY at DESC, name LIMIT {most:UInt16}",
        {"account": account.id, "user": user, "since": int(now - TIME_LINE_DAYS * 86_400), "most": EVENTS},
    )
    return [(float(at), str(name), str(raw)) for at, name, raw in rows]
