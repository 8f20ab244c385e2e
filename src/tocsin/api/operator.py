"""For who runs the server: health, metrics, and what commands of the same machine ask of a running server."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin import metrics
from tocsin.api.context import Context
from tocsin.api.endpoint import get, post
from tocsin.api.exports import export_person
from tocsin.api.http import PRIVATE, answer
from tocsin.api.reports import answer_report
from tocsin.api.segments import explain_where
from tocsin.api.upload import upload_as
from tocsin.errors import Misconfigured, Problem, read_struct
from tocsin.ingest.column import Unusual
from tocsin.ingest.event_people import EventPeople, admit_people
from tocsin.ingest.names import read_limits
from tocsin.repair import copy_all_profiles, record_again
from tocsin.repair.drift import reconcile
from tocsin.store.backup import freeze_stores

FOUND_SECONDS = 600.0  # less than `leavers.SETTLE_SECONDS`


async def check_health(context: Context, request: Request) -> Response:
    """Return 200 while both stores answer, as they were found a second ago at most. Raises Problem 503. `verbose`: with
    versions and the migration of the ledger, from memory."""
    await context.health.check()
    more = msgspec.to_builtins(context.health.installation) if "verbose" in request.query_params else {}
    return answer({"status": "success", **more})


async def show_metrics(context: Context, _: Request) -> Response:
    """Return the Prometheus text format; the backlog is NaN while the ledger cannot be read."""
    waiting = await context.health.read_backlog()  # without a ledger the rest is wanted most
    metrics.CHUNKS_OPEN.set(waiting["chunks"])
    metrics.RUNS_OVERDUE.set(waiting["overdue"])
    metrics.DELETIONS_WAITING.set(waiting["leaving"])
    metrics.DELETION_AGE.set(waiting["leaving_oldest"])
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(metrics.render_metrics(), headers=PRIVATE, media_type=kind)


async def upload_locally(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    return await upload_as(context, request, account, await context.read_body(request, account.id), system=True)


class BlockOfEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a command says of a block. found: when the server told it the users, in epoch seconds. processed,
    unprocessed: how many events it has, and how many more were refused."""

    found: float
    processed: int
    unprocessed: int


async def find_people(context: Context, request: Request) -> Response:
    """Find or create those whose events a command brings as blocks. `users` is null where these cannot be a block."""
    account = await context.authenticate_locally(request)
    asked = read_struct(await context.read_json(request, account.id), EventPeople)
    now, users = context.clock(), None
    with contextlib.suppress(Unusual):
        users = await admit_people(context.ledger, context.facts, account, asked, read_limits(context.settings), now)
    return answer({"status": "success", "users": users, "found": now})


async def take_events(context: Context, request: Request) -> Response:
    """Store a block of events. Raises Problem 408 when their people were found long ago: those who left since would not
    be erased a second time."""
    account = await context.authenticate_locally(request)
    try:
        about = msgspec.convert(dict(request.query_params), BlockOfEvents, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(f"The parameters of a block are wrong: {error}") from None
    block = await context.read_body(request, account.id)
    if not context.clock() - about.found <= FOUND_SECONDS:
        sentence = "These events come too long after their people were found: run the command again, it goes on"
        raise Problem(sentence, code=408, status=408)
    await context.facts.insert_block("event", block)
    for result in ("processed", "unprocessed"):
        metrics.RECORDS.labels(result=result).inc(getattr(about, result))
    return answer({"status": "success"})


async def repair(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    profiles = await copy_all_profiles(context.ledger, context.facts, account.id)
    outcomes = await record_again(context.ledger, context.facts, account)
    return answer({"status": "success", "profiles": profiles, "outcomes": outcomes})


async def reconcile_locally(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    mend = (await context.read_json(request, account.id)).get("mend") is True
    found = await reconcile(context.ledger, context.facts, account, context.clock(), mend=mend)
    return answer({"status": "success", **found})


async def report_locally(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    return await answer_report(context, account, await context.read_json(request, account.id))


async def explain_locally(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    body = await context.read_json(request, account.id)
    found = await explain_where(context.ledger, context.facts, account, body, context.clock())
    return answer({"status": "success", **found})


async def show_person(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    body = await context.read_json(request, account.id)
    asked = {name: str(value) for name, value in body.items()}
    return answer(await export_person(context.ledger, context.facts, account, asked))


async def free_address(context: Context, request: Request) -> Response:
    account = await context.authenticate_locally(request)
    body = await context.read_json(request, account.id)
    users = await context.feedback.free_address(account.id, str(body.get("address", "")), "command")
    return answer({"status": "success", "users": users})


async def freeze(context: Context, request: Request) -> Response:
    """Freeze the facts store for a backup that a command copies. Raises Problem 409 for stores of other machines."""
    context.prove_local(request)
    try:
        frozen = await asyncio.to_thread(freeze_stores, context.ledger, context.facts, context.clock())
    except Misconfigured as error:
        raise Problem(str(error), code=409, status=409) from None
    return answer(msgspec.to_builtins(frozen))


HEALTH = get("/healthz", check_health)
METRICS = get("/metrics", show_metrics)
LOCAL = [
    post("/local/upload", upload_locally),
    post("/local/people", find_people),
    post("/local/events", take_events),
    post("/local/repair", repair),
    post("/local/explain", explain_locally),
    post("/local/person", show_person),
    post("/local/report", report_locally),
    post("/local/reconcile", reconcile_locally),
    post("/local/free", free_address),
    post("/local/freeze", freeze),
]
ENDPOINTS = [HEALTH, METRICS, *LOCAL]
