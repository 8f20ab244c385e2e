"""JSON in and out: one way to read a body, one shape of every error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.errors import Problem

MEDIA_TYPE = "application/json;charset=utf-8"
# Answers are about one account's people, and a cache does not know our headers of log-in.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
NESTING = 32
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
    start, code = ("Invalid JSON payload", CODE_INVALID_JSON) if sending else ("Malformed request", 400)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(f"{start}: {error}", code=code) from None
    except RecursionError:
        raise Problem(f"{start}: nested deeper than {NESTING} levels", code=code) from None
    if not isinstance(value, dict):
        raise Problem(f"{start}: the body must be an object (at $)", code=code)
    # Only a body that can hold one of them is walked: most have neither.
    if rb"\u0000" in body or body.count(b"{") + body.count(b"[") > NESTING:
        to = value.pop("to", None) if sending else None
        _check(value, "$", NESTING, start, code)
        if to is not None:
            _check(to, "$.to", NESTING - 1, "Invalid recipients", CODE_RECIPIENTS)
            value["to"] = to
    return value


def _check(value: Any, place: str, levels: int, start: str, code: int) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Problem(f"{start}: a text holds a NUL (at {place[:200]})", code=code)
    elif isinstance(value, dict):
        if not levels:
            raise Problem(f"{start}: nested deeper than {NESTING} levels (at {place[:200]})", code=code)
        for key, inner in value.items():
            if "\0" in key:
                raise Problem(f"{start}: a key holds a NUL (at {place[:200]})", code=code)
            _check(inner, f"{place}.{key}", levels - 1, start, code)
    elif isinstance(value, list):
        if not levels:
            raise Problem(f"{start}: nested deeper than {NESTING} levels (at {place[:200]})", code=code)
        for index, inner in enumerate(value):
            if isinstance(inner, str | dict | list):
                _check(inner, f"{place}[{index}]", levels - 1, start, code)
