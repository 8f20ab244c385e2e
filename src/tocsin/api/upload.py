"""`/1/upload`: profiles, events and device tokens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin import ingest, metrics
from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, encode, read_body, read_object, replay, require_json_type
from tocsin.errors import Problem
from tocsin.idempotency import BUSY_SECONDS, complete, keep, read_key, release


async def upload(context: Context, request: Request) -> Response:
    """Take records of an account. Raises Problem 429 while too many of its uploads are under way."""
    account = await context.authenticate(request)
    require_json_type(request)
    async with context.uploads.admit(account.id, context.clock()):
        return await upload_as(context, request, account, system=context.settings.allow_system_events)


async def upload_as(context: Context, request: Request, account: Account, *, system: bool) -> Response:
    """Take records for an account. system: they may be events that an SDK raises. Raises Problem 400, 409, 413, 422."""
    raw = await read_body(request, context.settings.body_limit)
    body = read_object(raw, request.scope["path"])
    dry_run = request.query_params.get("dryRun", "0") in ("1", "true")
    key = None if dry_run else read_key(account.id, request.headers.get("idempotency-key"), request.scope["path"], raw)
    now = context.clock()
    if key is not None:
        kept = await context.ledger.write(lambda connection: keep(connection, key, "", now))
        if kept is not None and kept.answer:
            return replay(kept.answer)
        if kept is not None and now < kept.since + BUSY_SECONDS:
            raise Problem("The first request of this Idempotency-Key is under way", code=409, status=409, retry_after=1)
        now = now if kept is None else kept.since  # what a crash left is done as of then
    try:
        result = await ingest.upload(
            context.ledger, context.facts, account, body, now, dry_run=dry_run, system=system, key=key
        )
    except Problem:
        if key is not None:
            await context.ledger.write(lambda connection: release(connection, key))
        raise
    text = encode({"status": result.status, "processed": result.processed, "unprocessed": result.unprocessed})
    if key is not None:
        await context.ledger.write(lambda connection: complete(connection, key, text))
    metrics.RECORDS.labels(result="processed").inc(result.processed)
    metrics.RECORDS.labels(result="unprocessed").inc(len(result.unprocessed))
    return answer(text)


ENDPOINTS = [post("/1/upload", upload, right="upload")]
