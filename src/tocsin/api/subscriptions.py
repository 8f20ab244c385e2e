"""`/1/subscribe`: addresses that leave, and come back."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, read_records, require_json_type
from tocsin.errors import Problem
from tocsin.ingest import event_row, hash_id, refresh_profiles
from tocsin.ingest.returns import note_returns
from tocsin.ingest.subscription import (
    RECORDS,
    UNSUBSCRIBED,
    AddressChange,
    apply_address_changes,
    find_users_with_addresses,
    read_changes,
)


async def subscribe(context: Context, request: Request) -> Response:
    account = await context.authenticate(request)
    require_json_type(request)
    body = await read_records(await context.read_body(request, account.id))
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
    sharers = await find_users_with_addresses(context.facts, account.id, changes)
    returned = [user for user, mine in sharers.items() if any(one.address in back for one in mine)]
    if returned:
        await context.ledger.write(lambda connection: note_returns(connection, account.id, returned, now))
    await refresh_profiles(context.ledger, context.facts, account.id, sorted(sharers))
    rows = []
    for user, mine in sharers.items():
        for one in mine:
            if one.opts_out:
                kind = "Email" if one.kind == "email" else "SMS"
                props = {
                    "Identity": one.address,
                    "Campaign Type": kind,
                    "Subscription Type": "account",
                    "Reason": "API",
                }
                event_id = hash_id(account.id, user, one.address, int(now))
                rows.append(event_row(account, UNSUBSCRIBED, user, now, event_id, props))
    await context.facts.insert("event", rows)


ENDPOINTS = [post("/1/subscribe", subscribe, right="upload")]
