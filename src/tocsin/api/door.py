"""The fast door: `/1/send/…` without the framework, which takes twice as long over a request as everything else here.

What is asked, checked and answered is the same as anywhere: the routes of the framework stand behind it, and it hands
them whatever it does not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import structlog

from tocsin import metrics
from tocsin.api.context import Context
from tocsin.api.http import CODE_UNEXPECTED, JSON_TYPE, MEDIA_TYPE, READ_ON, read_object
from tocsin.campaign.send import ANSWER, accept, read_asked, read_plain
from tocsin.channels import CHANNELS
from tocsin.errors import Problem
from tocsin.idempotency import read_key
from tocsin.providers import BY_NAME
from tocsin.providers.credential import require_provider

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

SEND_PATHS = {f"/1/send/{channel}.json": channel for channel in CHANNELS}
HEADERS = [(b"content-type", MEDIA_TYPE.encode())]
TAKEN = ANSWER.encode()
NOT_ALLOWED = Problem("Method Not Allowed", code=405, status=405)


class Door:
    """An ASGI application in front of another one."""

    def __init__(self, context: Context, behind: App):
        self._context = context
        self._behind = behind

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        channel = SEND_PATHS.get(path)
        if channel is None or scope["type"] != "http":
            await self._behind(scope, receive, send)
            return
        if scope["method"] == "POST":
            status, content, more = await self._answer(path, channel, dict(scope["headers"]), receive)
        else:
            status, content, more = 405, NOT_ALLOWED.encode(), [(b"allow", b"POST")]
        metrics.REQUESTS.labels(route=path, status=str(status)).inc()
        headers = [*HEADERS, *more, (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(
        self, path: str, channel: str, headers: Mapping[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        try:
            new = await self._take(path, channel, headers, receive)
        except Problem as problem:
            wait = problem.retry_after
            return problem.status, problem.encode(), [] if wait is None else [(b"retry-after", str(wait).encode())]
        except Exception:
            log.exception("request failed", path=path)
            return 500, Problem("Unexpected error, please try again", code=CODE_UNEXPECTED).encode(), []
        return 200, TAKEN, [] if new else [(b"idempotent-replayed", b"true")]

    async def _take(self, path: str, channel: str, headers: Mapping[bytes, bytes], receive: Receive) -> bool:
        context, now = self._context, self._context.clock()
        with context.send_queue.admit(_length(headers)):
            account = await context.authenticator.authenticate(
                _text(headers, b"x-clevertap-account-id"), _text(headers, b"x-clevertap-passcode"), now
            )
            if not JSON_TYPE.fullmatch(_text(headers, b"content-type") or ""):
                raise Problem("Content-Type must be application/json")
            raw = await _read(receive, context.settings.body_limit)
            if channel in BY_NAME:
                await context.ledger.read(lambda connection: require_provider(connection, account.id, channel))
            key = read_key(account.id, _text(headers, b"idempotency-key"), path, raw)
            asked = read_plain(raw) or read_asked(read_object(raw, path))
            new = await accept(context.send_queue, account, channel, asked, now, context.settings, key)
        context.load.count(sum(map(len, asked.to.values())), now)
        if not context.load.is_heavy(now):  # else delivery looks by itself, and need not be woken each time
            context.wakeup.notify()
        return new


async def _read(receive: Receive, limit: int) -> bytes:
    """The body. Raises Problem 413, after reading on for a while: many callers look for an answer only when they have
    sent everything."""
    message = await receive()
    body = bytes(message.get("body", b""))
    if not message.get("more_body", False) and len(body) <= limit:
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False) and size <= limit * READ_ON:
        message = await receive()
        size += len(message.get("body", b""))
        if size <= limit:
            parts.append(bytes(message.get("body", b"")))
    if size > limit:
        raise Problem(f"The body is larger than {limit} bytes", code=413, status=413)
    return b"".join(parts)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _length(headers: Mapping[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) < 16 else 0
