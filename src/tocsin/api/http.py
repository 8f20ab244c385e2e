"""JSON in and out: one way to read a body, one shape of every error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from tocsin import metrics
from tocsin.errors import Problem

log = structlog.get_logger()

MEDIA_TYPE = "application/json;charset=utf-8"
NESTING = 32
READ_ON = 8  # times the limit, then the connection is dropped in the middle
JSON_TYPE = re.compile(r"\s*application/json\s*(;.*)?", re.IGNORECASE)
CODE_INVALID_JSON = 78
CODE_RECIPIENTS = 84
CODE_UNEXPECTED = 89
HttpRequest = Request[Any, Any, Any]


def encode(body: Mapping[str, Any]) -> str:
    return msgspec.json.encode(body).decode()


def answer(
    body: Mapping[str, Any] | str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """An answer, as an object or as JSON."""
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def replay(body: str) -> Response[bytes]:
    """The answer that the first request of an Idempotency-Key got."""
    return answer(body, headers={"Idempotent-Replayed": "true"})


def refuse(problem: Problem) -> Response[bytes]:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
    return answer(problem.encode().decode(), problem.status, headers)


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """The body, never more than `limit` bytes of it in memory. Raises Problem 413, after reading on for a while: many
    callers look for an answer only when they have sent everything."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit * READ_ON:
            break
    if size > limit:
        raise Problem(f"The body is larger than {limit} bytes", code=413, status=413)
    return b"".join(parts)


def require_json_type(request: HttpRequest) -> None:
    if not JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
        raise Problem("Content-Type must be application/json")


def read_object(body: bytes, path: str) -> dict[str, Any]:
    """A body as an object. Raises Problem with the place: 78 for `/1/send/…`, else «Malformed request»."""
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


def on_problem(request: HttpRequest, problem: Problem) -> Response[bytes]:
    _count(request, problem.status)
    return refuse(problem)


def on_http_error(request: HttpRequest, error: HTTPException) -> Response[bytes]:
    """404, 405 and whatever else the framework finds: JSON like everything."""
    _count(request, error.status_code)
    words = {404: "Not Found", 405: "Method Not Allowed"}
    text = words.get(error.status_code, error.detail)
    response = refuse(Problem(text, code=error.status_code, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


def on_bug(request: HttpRequest, error: Exception) -> Response[bytes]:
    log.error("request failed", path=request.url.path, exc_info=error)
    _count(request, 500)
    if request.url.path.startswith("/1/send/"):
        return refuse(Problem("Unexpected error, please try again", code=CODE_UNEXPECTED, status=500))
    return refuse(Problem("An unknown error occurred", code=500, status=500))


def count_success(request: HttpRequest) -> None:
    _count(request, 200)


def _count(request: HttpRequest, status: int) -> None:
    # The route, not the path: made-up paths must not make series.
    handler = request.scope.get("route_handler")
    paths = sorted(getattr(handler, "paths", ())) if status != 404 else []
    metrics.REQUESTS.labels(route=paths[0] if paths else "unknown", status=str(status)).inc()
