"""`/1/upload`, tag groups, and what comes back from devices: the rest of the API's routes."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import SQLAlchemyError

from tocsin import ingest, metrics
from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.http import (
    HttpRequest,
    answer,
    count_success,
    encode,
    read_body,
    read_object,
    replay,
    require_json_type,
)
from tocsin.errors import Problem
from tocsin.feedback.interactions import INTERACTIONS, record_interaction
from tocsin.idempotency import BUSY_SECONDS, complete, keep, read_key, release
from tocsin.repair import copy_all_profiles, record_again
from tocsin.stats.results import backlog, count_labels, count_tag_groups


def record_routes(context: Context) -> Sequence[HTTPRouteHandler]:
    @post("/1/upload", status_code=200)
    async def upload(request: HttpRequest) -> Response[bytes]:
        account = await context.account_of(request)
        require_json_type(request)
        async with context.uploads.admit(account.id, context.clock()):
            return await _upload(context, request, account, system=context.settings.allow_system_events)

    @get("/1/tag_groups.json")
    async def tag_groups(request: HttpRequest) -> Response[bytes]:
        account = await context.account_of(request)
        groups = await count_tag_groups(context.ledger, context.facts, account.id)
        total: Counter[str] = Counter()
        for numbers in groups.values():
            total.update(numbers)
        count_success(request)
        return answer({"status": "success", "tag_groups": groups, "total": dict(total)})

    @get("/1/labels.json")
    async def labels(request: HttpRequest) -> Response[bytes]:
        account = await context.account_of(request)
        found = await count_labels(context.ledger, context.facts, account.id)
        count_success(request)
        return answer({"status": "success", "labels": found})

    @post("/track/{kind:str}", status_code=200)
    async def track(request: HttpRequest, kind: str) -> Response[bytes]:
        if kind not in INTERACTIONS:
            raise Problem("Not Found", code=404, status=404)
        body = read_object(await read_body(request, 4096), request.url.path)
        push_id = body.get("id")
        if not isinstance(push_id, str):
            raise Problem("id must be the wzrk_pid of a message (at $.id)")
        await record_interaction(context.ledger, context.facts, context.secret, kind, push_id, context.clock())
        count_success(request)
        return answer({"status": "success"})

    return [upload, tag_groups, labels, track]


def operator_routes(context: Context) -> Sequence[HTTPRouteHandler]:
    """Health, metrics, and what the commands of this machine ask of a running server."""

    @get("/healthz")
    async def health() -> Response[bytes]:
        await context.ledger.read(lambda connection: backlog(connection, context.clock()))
        await context.facts.query("SELECT 1", {})
        return answer({"status": "success"})

    @get("/metrics")
    async def show_metrics() -> Response[bytes]:
        waiting: Mapping[str, float] = {"chunks": math.nan, "overdue": math.nan}
        with contextlib.suppress(SQLAlchemyError):  # without a ledger the rest is wanted most
            waiting = await context.ledger.read(lambda connection: backlog(connection, context.clock()))
        metrics.CHUNKS_OPEN.set(waiting["chunks"])
        metrics.RUNS_OVERDUE.set(waiting["overdue"])
        return Response(metrics.render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @post("/local/upload", status_code=200)
    async def local_upload(request: HttpRequest) -> Response[bytes]:
        return await _upload(context, request, await context.local_account_of(request), system=True)

    @post("/local/repair", status_code=200)
    async def local_repair(request: HttpRequest) -> Response[bytes]:
        account = await context.local_account_of(request)
        profiles = await copy_all_profiles(context.ledger, context.facts, account.id)
        outcomes = await record_again(context.ledger, context.facts, account)
        return answer({"status": "success", "profiles": profiles, "outcomes": outcomes})

    return [health, show_metrics, local_upload, local_repair]


async def _upload(context: Context, request: HttpRequest, account: Account, *, system: bool) -> Response[bytes]:
    raw = await read_body(request, context.settings.body_limit)
    body = read_object(raw, request.url.path)
    dry_run = request.query_params.get("dryRun", "0") in ("1", "true")
    key = None if dry_run else read_key(account.id, request.headers.get("idempotency-key"), request.url.path, raw)
    now = context.clock()
    if key is not None:
        kept = await context.ledger.write(lambda connection: keep(connection, key, "", now))
        if kept is not None and kept.answer:
            count_success(request)
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
    count_success(request)
    return answer(text)
