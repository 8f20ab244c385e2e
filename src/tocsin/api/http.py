"""JSON in and out: one way to read a body, one shape of every error."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.errors import Problem, forget_frames
from tocsin.ingest.flaw import LEVELS, find_flaw

MEDIA_TYPE = "application/json;charset=utf-8"
# Answers are about one account's people, and a cache does not know our headers of log-in.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # PHP and .NET write one, and RFC 8259 lets a reader pass over it
GZIP_START = b"\x1f\x8b"
# What makes a body that is no JSON worth a second look: half a character, a word for no number, many digits, an
# exponent.
LOOSE = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|\d{300}|\d[eE]\+?\d")
DIGITS = 4000  # of an integer; Python reads no more than 4,300 without being told to
PLACE_LENGTH = 200
MALFORMED = "Malformed request"
JSON_TYPE = re.compile(r"\s*application/json\s*(;.*)?", re.IGNORECASE)
CODE_INVALID_JSON = 78
CODE_RECIPIENTS = 84
CODE_UNEXPECTED = 89


def encode(body: Mapping[str, Any]) -> str:
    return msgspec.json.encode(body).decode()


def answer(body: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer; a text is JSON already."""
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    return Response(content, 200, {**PRIVATE, **(headers or {})}, MEDIA_TYPE)


class WrittenResponse(Response):
    """An answer whose headers are written already, its length too. It may be sent any number of times."""

    def __init__(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]):
        # Not Response's own, which makes each header anew.
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]


def replay(body: str) -> Response:
    """Return the answer that the first request of an Idempotency-Key got."""
    return answer(body, headers={"Idempotent-Replayed": "true"})


def refuse(_: Request, problem: Problem) -> Response:
    """Return a Problem in the one shape of errors."""
    waiting = {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
    return Response(problem.encode(), problem.status, PRIVATE | waiting, MEDIA_TYPE)


def require_json_type(request: Request) -> None:
    """Raise Problem 400 when the body is not said to be JSON."""
    if not JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
        raise Problem("Content-Type must be application/json")


def read_object(body: bytes, path: str) -> dict[str, Any]:
    """Return a body as an object. Raises Problem with the place: 78 for `/1/send/…`, else «Malformed request»."""
    sending = path.startswith("/1/send/")
    start, code = ("Invalid JSON payload", CODE_INVALID_JSON) if sending else (MALFORMED, 400)
    value = _decode(body, start, code)
    # Only a body that can hold one of them is walked: most have neither.
    if rb"\u0000" in body or body.count(b"{") + body.count(b"[") > LEVELS:
        to = value.pop("to", None) if sending else None
        _require_flawless(value, "$", LEVELS, start, code)
        if to is not None:
            _require_flawless(to, "$.to", LEVELS - 1, "Invalid recipients", CODE_RECIPIENTS)
            value["to"] = to
    return value


async def read_records(body: bytes) -> dict[str, Any]:
    """Return a body as an object with a list of records `d`. Raises Problem as `read_object` does, but not for what is
    wrong inside a record and leaves it one (a NUL, half a character, a number out of range, NaN, too many levels):
    that is for who reads the records to find, since one record must not take the others along."""
    strict: Problem | None = None
    try:
        value: Any = _decode(body, MALFORMED, 400)
    except Problem as problem:
        strict = forget_frames(problem)
        value = await asyncio.to_thread(_decode_loosely, body)
        if not isinstance(value, dict):
            raise
    records = isinstance(value.get("d"), list)
    around = {key: inner for key, inner in value.items() if key != "d"} if records else value
    try:
        _require_flawless(around, "$", LEVELS, MALFORMED, 400)
    except Problem as problem:
        raise strict or problem from None
    found: dict[str, Any] = value
    return found


def _decode(body: bytes, start: str, code: int) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body.removeprefix(BYTE_ORDER_MARK))
    except msgspec.DecodeError as error:
        packed = "; it is compressed, and Content-Encoding does not say so" if body.startswith(GZIP_START) else ""
        raise Problem(f"{start}: {error}{packed}", code=code) from None
    except UnicodeDecodeError as error:
        raise Problem(f"{start}: the body is no UTF-8 ({_find_byte(body) or error})", code=code) from None
    except RecursionError:
        raise Problem(f"{start}: nested deeper than {LEVELS} levels", code=code) from None
    if not isinstance(value, dict):
        raise Problem(f"{start}: the body must be an object (at $)", code=code)
    return value


def _find_byte(body: bytes) -> str:
    """Return where a body stops being UTF-8: msgspec counts from the start of a text in it."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start}"
    return ""


def _decode_loosely(body: bytes) -> Any:
    """Return JSON in which half characters, bytes that are no UTF-8, NaN and numbers out of range are values like any
    other (`find_flaw` names them); None when something else is wrong with it, or nothing."""
    try:
        text = body.removeprefix(BYTE_ORDER_MARK).decode()
        if not LOOSE.search(text):
            return None
    except UnicodeDecodeError:
        text = body.removeprefix(BYTE_ORDER_MARK).decode(errors="surrogateescape")
    try:
        return json.loads(text, parse_int=_read_integer)
    except (ValueError, RecursionError):
        return None


def _read_integer(digits: str) -> int | float:
    return int(digits) if len(digits) < DIGITS else math.inf


def _require_flawless(value: Any, place: str, levels: int, start: str, code: int) -> None:
    if flaw := find_flaw(value, levels):
        raise Problem(f"{start}: {flaw[0]} (at {(place + flaw[1])[:PLACE_LENGTH]})", code=code)
