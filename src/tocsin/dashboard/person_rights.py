"""What somebody may ask of whoever keeps their data: to be told everything, and to be deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.people import delete_named
from tocsin.authenticator.audit import note
from tocsin.dashboard.page import PRIVATE, SECURITY, Frame, redirect, render
from tocsin.dashboard.people import HERE, SEARCH_LETTERS, ShownPerson, find_person
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import read_signed_form, require_member
from tocsin.errors import Problem
from tocsin.ingest.formers import find_formers
from tocsin.stats.export.dossier import read_dossier
from tocsin.store.deadline import begin_deadline
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

LINES = "application/x-ndjson"


async def download(context: Context, request: Request) -> Response:
    """Answer with everything about somebody as a file, a page of JSON on each line."""
    visitor, _ = await require_member(context, request, "admin")
    account, now = visitor.account, context.clock()
    asked, found = await _find(context, account, request.query_params.get("identity", ""))
    context.reads.take(account.id, request.scope[HELD])
    first = await read_dossier(context.ledger, context.facts, account, found.user, 1)
    await context.ledger.write(lambda one: note(one, account.id, visitor.who, "person exported", asked, now))

    pages = write_dossier(context.ledger, context.facts, account, found.user, first, context.settings.query_seconds)
    headers = SECURITY | PRIVATE | {"Content-Disposition": f'attachment; filename="person-{found.user}.jsonl"'}
    return StreamingResponse(pages, headers=headers, media_type=LINES)


async def write_dossier(
    ledger: Ledger, facts: Facts, account: Account, user: int, first: Mapping[str, Any], seconds: float
) -> AsyncIterator[bytes]:
    """Yield the pages about somebody, each as a line. seconds: what each may take to be read; how long it takes to be
    carried off does not matter, or who has a slow line would get a part of it."""
    page = first
    while True:
        yield msgspec.json.encode(page) + b"\n"
        if "next_page" not in page:
            return
        begin_deadline(seconds)
        page = await read_dossier(ledger, facts, account, user, page["next_page"])


async def ask_to_delete(context: Context, request: Request) -> Response:
    """Ask once more before somebody is deleted, and say what goes."""
    visitor, _ = await require_member(context, request, "admin")
    asked, found = await _find(context, visitor.account, request.query_params.get("identity", ""))
    context.reads.take(visitor.account.id, request.scope[HELD])
    formers = await context.ledger.read(lambda one: find_formers(one, visitor.account.id, [found.user]))
    counts = await count_rows(context.facts, visitor.account, [found.user, *sorted(formers)])
    frame = Frame(visitor, context.clock(), HERE)
    return render("delete_person.html", frame=frame, asked=asked, found=found, **counts)


async def delete(context: Context, request: Request) -> Response:
    """Delete somebody; refused when the identity means another one than the page that asked did."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    _, found = await _find(context, visitor.account, form.one("identity"))
    if form.one("user") != str(found.user):
        raise Problem(ENGLISH.delete_other, code=409, status=409)
    keys = [found.identities[0]]
    await delete_named(context.ledger, visitor.account, keys, visitor.who, context.clock())
    return redirect("/dashboard/people?deleted=1")


async def count_rows(facts: Facts, account: Account, users: Sequence[int]) -> dict[str, Any]:
    """Return how many events of somebody there are, and how many messages to them. users: all that they were."""
    mine = "account = {account:String} AND user IN {users:Array(UInt32)}"
    [(events, messages)] = await facts.query(
        f"SELECT (SELECT uniqExact(name, day, at, id) FROM event WHERE {mine}), "  # noqa: S608 - our own words
        f"(SELECT uniqExact(campaign, chunk, position) FROM outcome WHERE {mine})",
        {"account": account.id, "users": list(users)},
    )
    return {"events": int(events), "messages": int(messages)}


async def _find(context: Context, account: Account, text: str) -> tuple[str, ShownPerson]:
    """Return an identity and who has it. Raise Problem 404 for nobody."""
    asked = text.strip().replace("\0", "")[:SEARCH_LETTERS]
    found = await context.ledger.read(lambda connection: find_person(connection, account.id, asked))
    if found is None or not found.identities:
        raise Problem(ENGLISH.nobody_found, code=404, status=404)
    return asked, found
