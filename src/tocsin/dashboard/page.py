"""How a page is made: log-in, templates, static files, and the headers every answer carries."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context, read_single
from tocsin.audience.description import describe
from tocsin.dashboard.formatting import full_time, iso_time, points, short_time, thousands
from tocsin.errors import Problem
from tocsin.stats.comparison import describe_difference

HERE = Path(__file__).parent
HTML = "text/html"  # Starlette adds the character set
STATIC_SECONDS = 3600
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Tocsin", charset="UTF-8"'}
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
PRIVATE = {"Cache-Control": "no-store"}  # numbers of an account stay out of caches
HEADLINES = {
    401: "Please log in",
    403: "This passcode may not read",
    404: "Not found",
    429: "Too many log-ins",
    500: "Something broke",
}
TYPES = {".css": "text/css"}


class Frame(msgspec.Struct, frozen=True):
    """What stands around every page of an account. refresh: seconds until it loads itself again."""

    account: Account
    now: float
    refresh: int


def _read_static() -> dict[str, tuple[str, bytes]]:
    """Return every file that is served, read once: a name that is not here cannot reach the disk."""
    return {
        file.name: (TYPES[file.suffix], file.read_bytes())
        for file in sorted((HERE / "static").iterdir())
        if file.suffix in TYPES
    }


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "thousands": thousands,
        "points": points,
        "says": describe_difference,
        "describe": describe,
        "short_time": short_time,
        "full_time": full_time,
        "iso_time": iso_time,
    }
    # A changed style sheet gets another address, so a cached one is never wrong.
    digest = hashlib.sha256(b"".join(content for _, content in STATIC.values())).hexdigest()[:12]
    environment.globals["style"] = f"/dashboard/static/tocsin.css?v={digest}"
    return environment


STATIC = _read_static()
TEMPLATES = _make_environment()


async def log_in(context: Context, request: Request) -> Account:
    """Return the account of HTTP Basic: its id as the user, a passcode that may read as the password. Raises Problem
    401, 403, 429."""
    account_id, passcode = _read_basic(read_single(request, "authorization")[0] or "")
    return await context.check(request, account_id, passcode)


def render(name: str, status: int = 200, **values: Any) -> Response:
    """Return a page made from its template."""
    body = TEMPLATES.get_template(name).render(values).encode("utf-8", "replace")
    return Response(body, status, SECURITY | PRIVATE, HTML)


def refuse_page(_: Request, problem: Problem) -> Response:
    """Return a page that says what is wrong; at 401 also how to log in, never which half of it was wrong."""
    status = problem.status
    headline = HEADLINES.get(status, "That did not work")
    response = render("refusal.html", status, locked=status == 401, headline=headline, text=problem.error)
    if status == 401:
        response.headers.update(CHALLENGE)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response


def redirect(address: str) -> Response:
    """Send the browser to where a page really is."""
    return Response(status_code=308, media_type=HTML, headers=SECURITY | {"Location": address})


def serve_static(name: str) -> Response:
    if name not in STATIC:
        raise Problem("There is no such file.", code=404, status=404)
    kind, content = STATIC[name]
    caching = {"Cache-Control": f"public, max-age={STATIC_SECONDS}"}
    return Response(content, media_type=kind, headers=SECURITY | caching)


def _read_basic(header: str) -> tuple[str | None, str | None]:
    """Return user and password of an `Authorization` header; nothing when it is not one of HTTP Basic."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None, None
    if "\0" in text:  # PostgreSQL takes no NUL in a text
        return None, None
    user, _, password = text.partition(":")
    return user.strip(), password.strip()
