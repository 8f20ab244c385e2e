"""`/1/subscribe`: addresses that leave, and come back; `/1/suppressions/…`: those that get nothing, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, read_records, require_json_type
from tocsin.errors import Problem, read_struct
from tocsin.feedback.suppression import describe, list_suppressed
from tocsin.ingest import event_row, hash_id, refresh_sharers
from tocsin.ingest.returns import note_returns
from tocsin.ingest.subscription import (
    RECORDS,
    RESUBSCRIBED,
    UNSUBSCRIBED,
    AddressChange,
    apply_address_changes,
    read_changes,
)

PAGE = 1000


class SuppressedPageJson(msgspec.Struct, frozen=True):
    """Which page of the list, and how many on each."""

    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    limit: Annotated[int, Meta(ge=1, le=PAGE)] = PAGE


class LiftJson(msgspec.Struct, frozen=True):
    address: Annotated[str, Meta(min_length=1, max_length=1024)]


async def subscribe(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    require_json_type(request)
    body = await read_records(await context.read_in_turn(request, account.id))
    raws = body.get("d")
    if not isinstance(raws, list) or len(raws) > RECORDS:
        raise Problem(f"d must be a list of at most {RECORDS} records (at $.d)")
    changes, wrong = read_changes(raws)
    if changes:
        await _apply(context, account, changes)
    status = "success" if not wrong else "partial" if changes else "fail"
    return answer({"status": status, "processed": len(changes), "unprocessed": wrong})


async def _apply(context: Context, account: Account, changes: Sequence[AddressChange]) -> None:
    """Write to the ledger first, which claims ask; then the copies and events of those who have the addresses."""
    now = context.clock()
    back = await context.ledger.write(lambda connection: apply_address_changes(connection, account.id, changes, now))
    sharers = await refresh_sharers(context.ledger, context.facts, account.id, changes)
    returned = [user for user, mine in sharers.items() if any(one.address in back for one in mine)]
    if returned:
        await context.ledger.write(lambda connection: note_returns(connection, account.id, returned, now))
    rows = []
    for user, mine in sharers.items():
        for one in mine:
            kind = "Email" if one.kind == "email" else "SMS"
            props = {"Identity": one.address, "Campaign Type": kind, "Subscription Type": "account", "Reason": "API"}
            event_id = hash_id(account.id, user, one.address, int(now))
            name = UNSUBSCRIBED if one.opts_out else RESUBSCRIBED
            rows.append(event_row(account, name, user, now, event_id, props))
    await context.facts.insert("event", rows)


async def show_suppressed(context: Context, request: Request) -> Response:
    """List suppressed addresses by pages."""
    account, body = await context.read(request)
    asked = read_struct(body, SuppressedPageJson)
    offset = (asked.page - 1) * asked.limit
    found, total = await context.ledger.read(
        lambda connection: list_suppressed(connection, account.id, offset, asked.limit)
    )
    return answer({"status": "success", **describe(found, total, asked.limit)})


async def lift(context: Context, request: Request) -> Response:
    """Let an address that bounced get mail again. Raises Problem 404 for any other."""
    account, body = await context.read(request)
    asked = read_struct(body, LiftJson)
    users = await context.feedback.free_address(account.id, asked.address, "API")
    return answer({"status": "success", "users": users})


ENDPOINTS = [
    post("/1/subscribe", subscribe, right="upload"),
    post("/1/suppressions/list.json", show_suppressed, right="read"),
    post("/1/suppressions/lift.json", lift, right="upload"),
]
