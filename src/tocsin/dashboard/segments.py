"""Saved segments: what they ask, how many people that is, and where they are used."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.audience.members import count_members
from tocsin.audience.query import named_segments
from tocsin.audience.segment import NAMED, Segment, delete_segment, list_segments, load_segments
from tocsin.authenticator.audit import note
from tocsin.dashboard.campaigns import read_page
from tocsin.dashboard.page import Frame, redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import log_in, read_signed_form, require_member
from tocsin.errors import Problem

HERE = "segments"
SHOWN = NAMED  # on a page, as many as can be read at once


async def show_segments(context: Context, request: Request) -> Response:
    """List the segments of a page, each with its question and the segments that name it."""
    visitor = await log_in(context, request)
    number, account_id = read_page(request.query_params.get("page", "")), visitor.account.id

    def read(connection: Connection) -> tuple[list[Segment], int]:
        names, total = list_segments(connection, account_id, (number - 1) * SHOWN, SHOWN)
        return list(load_segments(connection, account_id, list(names))), total

    found, total = await context.ledger.read(read)
    users: dict[str, list[str]] = {one.name: [] for one in found}
    for one in found:
        for name in named_segments(one.where) & set(users):
            users[name].append(one.name)
    frame = Frame(visitor, context.clock(), HERE)
    values: dict[str, Any] = {"found": found, "users": users, "number": number, "pages": -(-total // SHOWN)}
    return render("segments.html", frame=frame, **values)


async def count(context: Context, request: Request) -> Response:
    """Show how many people a segment means now, as a part of the list."""
    visitor = await log_in(context, request)
    name = request.query_params.get("name", "").replace("\0", "")
    found = await context.ledger.read(lambda connection: load_segments(connection, visitor.account.id, [name]))
    if not found:
        raise Problem(ENGLISH.no_such_segment, code=404, status=404)
    context.reads.take(visitor.account.id, request.scope[HELD])
    number = await count_members(context.facts, visitor.account, found[0].query, context.clock())
    return render("count.html", frame=Frame(visitor, context.clock()), number=number)


async def delete(context: Context, request: Request) -> Response:
    """Delete a segment; campaigns that used it keep what it meant."""
    visitor, _ = await require_member(context, request, "marketer")
    name, account_id = (await read_signed_form(context, request, visitor)).one("name"), visitor.account.id
    now = context.clock()

    def delete_now(connection: Connection) -> bool:
        gone = delete_segment(connection, account_id, name)
        if gone:
            note(connection, account_id, visitor.who, "segment deleted", name, now)
        return gone

    if not await context.ledger.write(delete_now):
        raise Problem(ENGLISH.no_such_segment, code=404, status=404)
    return redirect("/dashboard/segments")
