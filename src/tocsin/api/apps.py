"""`/a1`, `/a`, `/hello`: what CleverTap's client SDKs send, from apps whose only change is their domain.

An SDK keeps what is not answered 200 and sends it again, an iPhone each second; so what is dropped is answered 200 too,
and counted (`tocsin_app_reports_total`). Nobody logs in: an app's token is public, and opens nothing but this.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping

import prometheus_client
from starlette.requests import Request
from starlette.responses import Response

from tocsin import metrics
from tocsin.account import Account
from tocsin.api.app_directory import KnownApps
from tocsin.api.bodies import HELD, STRANGERS
from tocsin.api.context import Context, read_single
from tocsin.api.endpoint import Endpoint
from tocsin.api.http import PRIVATE, encode
from tocsin.authenticator.apps import AppPlatform
from tocsin.errors import Problem
from tocsin.ingest.sdk.judge import judge
from tocsin.ingest.sdk.mobile import MobileMeta, Unreadable, read_mobile
from tocsin.ingest.sdk.report import SdkBatch
from tocsin.ingest.sdk.transit import Undecryptable, seal, unseal
from tocsin.ingest.sdk.web import WebAnswer, read_web, write_json, write_script

LARGE = 8192  # bytes of a request that is read in a thread: the others go on meanwhile
BODY_BYTES = 1024 * 1024  # of a batch: fifty events as large as an SDK lets them be
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._/-]{0,200})?")
ENCRYPTED = "x-clevertap-encryption-enabled"
ACKNOWLEDGED = encode({"pushamp_notifs": {"list": [], "ack": True}}).encode()
JAVASCRIPT = "text/javascript; charset=utf-8"
JSON = "application/json"
EMPTY = Response(b"{}", 200, PRIVATE, JSON)  # made once, as most answers are this one
# A page of any site may ask: the account's id is in its source anyway. No cookie is read.
OPEN_TO_PAGES = PRIVATE | {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "X-CleverTap-Encryption-Enabled",
    "Access-Control-Expose-Headers": "X-WZRK-MUTE-DURATION",
    "Access-Control-Max-Age": "86400",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
UNTOLD = ("internal", "push id")  # what each SDK asks; what has a line of its own


class RefusedEncryption(Problem):
    """What an SDK sent cannot be decrypted; it sends it in clear text then."""

    def __init__(self) -> None:
        super().__init__("Not encrypted as an SDK does it; send it in clear text", code=402, status=402)


async def take_mobile(context: Context, request: Request) -> Response:
    """Take a batch of an Android or iOS SDK. Raises Problem 402 for what cannot be decrypted, 429, 408 and 400 for a
    body that breaks off: those come again."""
    now = context.clock()
    sdk_id, token = read_single(request, "x-clevertap-account-id", "x-clevertap-token")
    sdk_id = sdk_id or request.query_params.get("z", "")
    platform: AppPlatform = "ios" if b"os=iOS" in request.scope["query_string"].split(b"&") else "android"
    known = await context.apps.find(sdk_id, now)
    if known is None or not known.admits(token, platform):
        await _read_body(context, request, STRANGERS)
        return _drop(context, "account", now)
    _admit(context, request, known, now)
    body = await _read_body(context, request, known.account.id)
    if body is None:
        return _drop(context, "too large", now, known.account.id)
    key = b""
    if request.headers.get(ENCRYPTED) == "true":
        try:
            body, key = unseal(body)
        except Undecryptable:
            raise RefusedEncryption from None
    try:
        large = len(body) > LARGE
        meta, batch = await asyncio.to_thread(read_mobile, body, now) if large else read_mobile(body, now)
    except Unreadable:
        return _drop(context, "unreadable", now, known.account.id)
    if (meta.account, meta.token) != (sdk_id, token):
        return _drop(context, "account", now, known.account.id)
    await _store(context, known, batch, now)
    return _answer_mobile(meta, platform, key)


async def take_web(context: Context, request: Request) -> Response:
    """Take what a browser says. Raises Problem 402 for what cannot be decrypted, and 429."""
    now = context.clock()
    try:
        asked = request.query_params, request.headers.get("user-agent", ""), now
        large = len(request.url.query) > LARGE
        found = await asyncio.to_thread(read_web, *asked) if large else read_web(*asked)
    except Undecryptable:
        raise RefusedEncryption from None
    except Unreadable:
        _count(context, {"unreadable": 1}, now)
        return Response(b"", 200, OPEN_TO_PAGES, JAVASCRIPT)
    known = await context.apps.find(found.account, now)
    if known is None or not known.admits(None, "web"):
        _count(context, {"account": 1}, now)
    else:
        _admit(context, request, known, now)
        await _store(context, known, found.batch, now)
    return _answer_web(request, found.answer, "" if known is None else known.web_push_key)


async def allow_pages(_: Context, __: Request) -> Response:
    """Answer a browser that asks whether a page may send the SDK's header."""
    return Response(b"", 204, OPEN_TO_PAGES | {"Allow": "GET, HEAD, OPTIONS"})


async def say_hello(_: Context, request: Request) -> Response:
    """Tell an SDK where to report: to the host it asked, which only says what it was told."""
    asked = request.headers.get("x-clevertap-handshake-domain") or request.headers.get("host", "")
    if not HOST.fullmatch(asked):
        return Response(b"", 200, PRIVATE, JAVASCRIPT)
    return Response(b"", 200, PRIVATE | {"X-WZRK-RD": asked, "X-WZRK-SPIKY-RD": asked}, JAVASCRIPT)


async def refuse_inbox(_: Context, __: Request) -> Response:
    """Tell an SDK that there is no inbox: it asks no more in this session."""
    return Response(b"{}", 403, PRIVATE, JSON)


def _admit(context: Context, request: Request, known: KnownApps, now: float) -> None:
    """Hold a place for a request of an account. Raise Problem 429."""
    context.large_bodies.note(known.account.id)
    context.app_places.take(known.account.id, request.scope[HELD])
    context.app_rates.admit(known.account.id, now, known.policy.limits.app_requests_per_second)


async def _read_body(context: Context, request: Request, owner: str) -> bytes | None:
    """Return the body; None for one that is too large, which would be so the next time as well."""
    try:
        return await context.read_body(request, owner, BODY_BYTES)
    except Problem as problem:
        if problem.status != 413:
            raise
        return None


async def _store(context: Context, known: KnownApps, batch: SdkBatch, now: float) -> None:
    """Store what a device tells, and count what became of it."""
    account = known.account
    context.app_rates.admit_device(account.id, batch.device, now)
    judged = judge(batch, now, trust=known.policy.apps.identities == "trust")
    late = await context.intake.put(account, judged, now)
    lost = await _record_views(context, account, batch, now)
    batch.dropped["push id"] += lost
    taken = sum(bool(one.report.id) for one in judged) - sum(late.values()) + late["property"]
    _count(context, batch.dropped + late, now, account.id, taken + len(batch.views) - lost)


async def _record_views(context: Context, account: Account, batch: SdkBatch, now: float) -> int:
    """Record views and clicks; return how many are of no message of the account's, or of one that is too old."""
    if len(batch.views) < 2:  # most come alone, and need no task of their own
        return sum([await _record_view(context, account, one, now) for one in batch.views])
    return sum(await asyncio.gather(*(_record_view(context, account, one, now) for one in dict.fromkeys(batch.views))))


async def _record_view(context: Context, account: Account, view: tuple[str, str], now: float) -> int:
    kind, push_id = view
    try:
        message = await context.signed_ids.read(push_id, "track")
    except Problem:
        context.reports.note("app", "forged", now, account.id)
        return 1
    try:
        await context.reports.take("app", kind, *message, now, of=account.id)
    except Problem as problem:
        if problem.status not in (400, 410):
            raise
        return 1
    return 0


def _count(context: Context, dropped: Mapping[str, int], now: float, account_id: str = "", stored: int = 0) -> None:
    """Count what became of the reports of one request; what changed nothing leaves a line, but for what an SDK asks."""
    for result, count in dropped.items():
        if count:
            _find_counter(result).inc(count)
            if result not in UNTOLD:
                context.reports.tell("app", result, now, account_id)
    if stored > 0:
        _find_counter("stored").inc(stored)


@functools.cache
def _find_counter(result: str) -> prometheus_client.Counter:
    return metrics.APP_REPORTS.labels(result=result)


def _drop(context: Context, reason: str, now: float, account_id: str = "") -> Response:
    _count(context, {reason: 1}, now, account_id)
    return EMPTY


def _answer_mobile(meta: MobileMeta, platform: AppPlatform, key: bytes) -> Response:
    """Return the answer that lets an SDK go on: where it has no second domain, an iPhone is told the first one."""
    text, headers = ACKNOWLEDGED if meta.shown else b"{}", dict(PRIVATE)
    domain = str(meta.fields.get("proxyDomain", ""))
    if platform == "android" and not meta.shown and not key:
        return EMPTY
    if platform == "ios" and not meta.fields.get("spikyProxyDomain") and HOST.fullmatch(domain):
        headers["X-WZRK-SPIKY-RD"] = domain
    if key:
        text, headers["X-CleverTap-Encryption-Enabled"] = seal(text, key), "true"
    return Response(text, 200, headers, JSON)


def _answer_web(request: Request, found: WebAnswer | None, push_key: str) -> Response:
    if JSON in request.headers.get("accept", ""):
        body = encode({"tr": {}} if found is None else write_json(found, push_key))
        return Response(body, 200, OPEN_TO_PAGES, JSON)
    return Response("" if found is None else write_script(found, push_key), 200, OPEN_TO_PAGES, JAVASCRIPT)


def refuse_page(_: Request, problem: Problem) -> Response:
    """Return a Problem so that a page's script may read its status."""
    waiting = {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
    return Response(problem.encode(), problem.status, OPEN_TO_PAGES | waiting, JSON)


ENDPOINTS = [
    Endpoint("/a1", {"POST": take_mobile}, paced=True),
    Endpoint("/a", {"GET": take_web, "HEAD": take_web, "OPTIONS": allow_pages}, on_problem=refuse_page, paced=True),
    Endpoint("/hello", {"GET": say_hello, "HEAD": say_hello}),
    Endpoint("/inbox/v2/{action}", {"POST": refuse_inbox}),
]
