"""People: somebody is looked up by an identity, and shown with profile, devices and what happened lately."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.targets import read_id
from tocsin.authenticator.audit import note
from tocsin.dashboard.connection import while_connected
from tocsin.dashboard.page import Frame, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import require_member
from tocsin.delivery.recipients import load_people
from tocsin.errors import Problem
from tocsin.ingest.identity import find_users
from tocsin.ingest.record import read_email
from tocsin.stats import timeline
from tocsin.stats.export.cursor import seal, unseal
from tocsin.stats.why import PersonalAnswer, explain_campaign
from tocsin.store import schema

HERE = "people"
KINDS = ("identity", "Email", "objectId", "GPID", "FBID")  # in the order in which somebody is looked for
SEARCH_LETTERS = 1024
CAMPAIGN_DIGITS = 10


class ShownDevice(msgspec.Struct, frozen=True):
    """One device. ends: the last letters of its token. gone_at: None for one that is alive."""

    kind: str
    object_id: str
    ends: str
    registered_at: float
    gone_at: float | None
    gone_code: str | None


class ShownPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody. where: the platforms a message would reach."""

    user: int
    identities: list[tuple[str, str]]
    profile: dict[str, Any]
    where: list[str]
    opted_out: list[str]
    groups_left: list[str]
    devices: list[ShownDevice]


class ShownLine(msgspec.Struct, frozen=True):
    """A page of somebody's time line. older: the cursor of the next one; "" behind the last."""

    moments: list[timeline.Moment]
    older: str


async def show_people(context: Context, request: Request) -> Response:
    """Show the search, and who has the identity of `?identity=`. What happened to them follows by itself, or comes
    with it (`?lately=1`)."""
    visitor, _ = await require_member(context, request, "marketer")
    account, now = visitor.account, context.clock()
    asked = _read_identity(request)
    campaign = request.query_params.get("campaign", "").strip()[:CAMPAIGN_DIGITS]
    cursor, whole = request.query_params.get("cursor", ""), "lately" in request.query_params
    found: ShownPerson | None = None
    line: ShownLine | None = None
    why, refused = None, ""
    if asked:
        found = await context.ledger.read(lambda connection: find_person(connection, account.id, asked))
    if found is not None:
        if campaign or whole:
            context.reads.take(account.id, request.scope[HELD])
        if whole:
            line = await _read_time_line(context, account, found.user, cursor, now)
        if campaign:
            why, refused = await _find_why(context, account, found.user, campaign, now)
        await context.ledger.write(lambda one: note(one, account.id, visitor.who, "person looked at", asked, now))
    deleted = "deleted" in request.query_params
    more: dict[str, Any] = {"deleted": deleted, "campaign": campaign, "why": why, "refused": refused}
    more |= {"line": line, "cursor": cursor, "whole": whole}
    return render("people.html", frame=Frame(visitor, now, HERE), asked=asked, found=found, **more)


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
    # Ordered here: SQLite would read everybody's identities in their order to save itself the sorting of these few.
    names = connection.execute(select(identity.c.kind, identity.c.value).where(*mine))
    columns = [device.c[name] for name in ("kind", "object_id", "token", "registered_at", "gone_at", "gone_code")]
    devices = select(*columns).where(device.c.account_id == account_id, device.c.user_id == user)
    person = people[user]
    return ShownPerson(
        user=user,
        identities=sorted((kind, value) for kind, value in names),
        profile=msgspec.json.decode(person.profile),
        where=[platform for platform, addresses in person.addresses.items() if addresses],
        opted_out=sorted(person.opted_out),
        groups_left=sorted(person.groups_left.values()),
        devices=[
            ShownDevice(
                row.kind,
                row.object_id,
                row.token[-timeline.TOKEN_LETTERS :],
                row.registered_at,
                row.gone_at,
                row.gone_code,
            )
            for row in connection.execute(devices.order_by(device.c.registered_at.desc()))
        ],
    )


async def show_lately(context: Context, request: Request) -> Response:
    """Show what happened to whoever has the identity of `?identity=`, as a part of their page."""
    visitor, _ = await require_member(context, request, "marketer")
    account, now = visitor.account, context.clock()
    asked = _read_identity(request)
    found = await context.ledger.read(lambda connection: find_person(connection, account.id, asked)) if asked else None
    if found is None:
        raise Problem(ENGLISH.nobody_found, code=404, status=404)
    context.reads.take(account.id, request.scope[HELD])
    cursor = request.query_params.get("cursor", "")
    line = await while_connected(request, _read_time_line(context, account, found.user, cursor, now))
    await context.ledger.write(lambda one: note(one, account.id, visitor.who, "time line looked at", asked, now))
    return render("time_line.html", frame=Frame(visitor, now), asked=asked, line=line, whole=False)


def _read_identity(request: Request) -> str:
    return request.query_params.get("identity", "").strip().replace("\0", "")[:SEARCH_LETTERS]


async def _read_time_line(context: Context, account: Account, user: int, text: str, now: float) -> ShownLine:
    """Return a page of somebody's time line. text: the cursor of an address; the first page without a good one."""
    cursor = timeline.begin_timeline(account, user, now)
    if text:
        with contextlib.suppress(Problem):
            given = await context.ledger.read(lambda one: unseal(one, text, "timeline", account.id, now))
            cursor = given if given.last_user == user else cursor
    moments, following = await timeline.read_timeline(context.ledger, context.facts, account, cursor)
    older = "" if following is None else await context.ledger.read(lambda one: seal(one, following))
    return ShownLine(moments, older)


async def _find_why(
    context: Context, account: Account, user: int, campaign: str, now: float
) -> tuple[PersonalAnswer | None, str]:
    """Return why somebody got a campaign or not; or why that cannot be said."""
    try:
        campaign_id = read_id({"id": campaign})
        stores = (context.ledger, context.facts)
        how = (context.settings, context.compile_pool)
        return await explain_campaign(*stores, account, campaign_id, user, now, *how), ""
    except Problem as problem:
        return None, problem.error
