"""`/1/upload`: profiles, events and device tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin import ingest, metrics
from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import answer, encode, read_records, replay, require_json_type
from tocsin.errors import Problem
from tocsin.idempotency import (
    ANSWER_BYTES,
    BUSY_SECONDS,
    IdempotencyKey,
    StoredAnswer,
    complete,
    find_answer,
    keep,
    read_key,
    release,
    require_answer_room,
)
from tocsin.ingest import UploadResult
from tocsin.ingest.flaw import to_shown
from tocsin.ingest.names import read_limits


async def upload(context: Context, request: Request) -> Response:
    """Take records of an account. Raises Problem 429 while too many of its uploads are under way."""
    account = await context.authenticate(request)
    require_json_type(request)
    async with context.uploads.admit(account.id, context.clock()):
        raw = await context.read_in_turn(request, account.id)
        return await upload_as(context, request, account, raw, system=context.settings.allow_system_events)


async def upload_as(context: Context, request: Request, account: Account, raw: bytes, *, system: bool) -> Response:
    """Take the records of a body for an account. system: they may be events that an SDK raises. Raises Problem 400,
    409, 422."""
    body = await read_records(raw)
    dry_run = request.query_params.get("dryRun", "0") in ("1", "true")
    key = None if dry_run else read_key(account.id, request.headers.get("idempotency-key"), request.scope["path"], raw)
    now = context.clock()
    if key is not None:
        kept = await context.ledger.write(lambda connection: _keep(connection, key, now))
        if kept is not None and kept.answer:
            return replay(restore_answer(kept.answer, body))
        if kept is not None and now < kept.since + BUSY_SECONDS:
            raise Problem("The first request of this Idempotency-Key is under way", code=409, status=409, retry_after=1)
        now = now if kept is None else kept.since  # what a crash left is done as of then
    try:
        result = await ingest.upload(
            *(context.ledger, context.facts, account, body, now),
            dry_run=dry_run,
            system=system,
            key=key,
            limits=read_limits(context.settings),
        )
    except Problem:
        if key is not None:
            await context.ledger.write(lambda connection: release(connection, key))
        raise
    text = encode({"status": result.status, "processed": result.processed, "unprocessed": result.unprocessed})
    if key is not None:
        kept_text = shorten_answer(text, result)
        await context.ledger.write(lambda connection: complete(connection, key, kept_text))
    metrics.RECORDS.labels(result="processed").inc(result.processed)
    metrics.RECORDS.labels(result="unprocessed").inc(len(result.unprocessed))
    return answer(text)


class ShortAnswer(msgspec.Struct, frozen=True, tag="short"):
    """An answer without the records in it, which a repeat brings along. refused: (number of the record from 0, code,
    number of its sentence)."""

    status: str
    processed: int
    sentences: list[str]
    refused: list[tuple[int, int, int]]


_SHORT = msgspec.json.Decoder(ShortAnswer)
_SHORT_START = '{"type":"short"'


def shorten_answer(text: str, result: UploadResult) -> str:
    """Return an answer as it is kept under a key: itself when it has no records, for people are in them; else a
    `ShortAnswer` as JSON. When that is longer than ANSWER_BYTES, the sentences are cut behind their first full stop."""
    if not result.unprocessed:
        return text
    for whole in (True, False):
        sentences: dict[str, int] = {}
        refused: list[tuple[int, int, int]] = []
        for one, number in zip(result.unprocessed, result.numbers, strict=True):
            sentence = one["error"].rpartition("Skipped record number")[0]
            if not whole:
                sentence = sentence[: sentence.find(".") + 1] + sentence[len(sentence.rstrip()) :]
            refused.append((number, one["code"], sentences.setdefault(sentence, len(sentences))))
        short = encode(msgspec.to_builtins(ShortAnswer(result.status, result.processed, list(sentences), refused)))
        if len(short.encode()) <= ANSWER_BYTES:
            break
    return short


def restore_answer(text: str, body: Mapping[str, Any]) -> str:
    """Return the answer that was kept, with the records of the repeated request in it."""
    if not text.startswith(_SHORT_START):
        return text
    short = _SHORT.decode(text)
    unprocessed = [
        {
            "status": "fail",
            "code": code,
            "error": f"{short.sentences[sentence]}Skipped record number : {number + 1}",
            "record": to_shown(body["d"][number]),
        }
        for number, code, sentence in short.refused
    ]
    return encode({"status": short.status, "processed": short.processed, "unprocessed": unprocessed})


def _keep(connection: Connection, key: IdempotencyKey, now: float) -> StoredAnswer | None:
    """Keep the key of an upload before its effect, when its answer will have room."""
    if find_answer(connection, key, now) is None:
        require_answer_room(connection, key.account_id)
    return keep(connection, key, "", now)


ENDPOINTS = [post("/1/upload", upload, right="upload")]
