"""How a page is made: templates, static files, and the headers every answer carries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.audience.description import describe
from tocsin.authenticator.members import ROLES, Role
from tocsin.authenticator.session import MemberSession, make_form_token
from tocsin.dashboard.formatting import (
    full_time,
    iso_time,
    lasting,
    percent,
    plain_json,
    points,
    pretty_json,
    rounded,
    short_time,
    thousands,
)
from tocsin.dashboard.texts import ENGLISH
from tocsin.errors import Problem
from tocsin.stats.comparison import describe_difference

HERE = Path(__file__).parent
HTML = "text/html"  # Starlette adds the character set
STATIC_SECONDS = 3600
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Tocsin", charset="UTF-8"'}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Of a mail that is looked at: its styles are its own, its scripts are dead, and its pictures are not fetched.
MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
SECURITY = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Without it browsers would not say which site a form comes from.
FORMS = {"Referrer-Policy": "same-origin"}
PRIVATE = {"Cache-Control": "no-store"}  # numbers of an account stay out of caches
HEADLINES = {403: "refused_role", 404: "refused_missing", 429: "refused_often", 500: "refused_bug"}
TYPES = {".css": "text/css", ".js": "text/javascript"}
# For whoever would pick a part of a page: what went wrong goes to a place of its own, and the page stays as it is.
PLACE_OF_TROUBLE = {"HX-Retarget": "#trouble", "HX-Reselect": ".warn", "HX-Reswap": "innerHTML"}
ASKS = "tocsin.asks"  # in a request's scope: how whoever is not logged in is asked to


class Visitor(msgspec.Struct, frozen=True):
    """Who looks at a page, at which account, and as what. session: None with a passcode, which may only read."""

    account: Account
    role: Role
    session: MemberSession | None = None

    def may(self, role: Role) -> bool:
        """Return whether this one may do what the role may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def who(self) -> str:
        return self.session.email if self.session else ENGLISH.a_passcode

    @property
    def form_token(self) -> str:
        return make_form_token(self.session) if self.session else ""


class Frame(msgspec.Struct, frozen=True):
    """What stands around every page of an account. here: the entry of the navigation it belongs to. refresh: seconds
    until it loads itself again where there is no script; 0 for one that does not change."""

    visitor: Visitor
    now: float
    here: str = ""
    refresh: int = 0

    @property
    def account(self) -> Account:
        return self.visitor.account


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
        "rounded": rounded,
        "says": describe_difference,
        "percent": percent,
        "describe": describe,
        "short_time": short_time,
        "full_time": full_time,
        "iso_time": iso_time,
        "lasting": lasting,
        "plain_json": plain_json,
        "pretty_json": pretty_json,
    }
    # A changed file gets another address, so a cached one is never wrong.
    digest = hashlib.sha256(b"".join(content for _, content in STATIC.values())).hexdigest()[:12]
    environment.globals |= {
        "style": f"/dashboard/static/tocsin.css?v={digest}",
        "scripts": [f"/dashboard/static/{name}?v={digest}" for name in SCRIPTS],
        "t": ENGLISH,
    }
    return environment


SCRIPTS = ("htmx.min.js", "hx-sse.min.js", "focus.js", "pick.js")  # in this order: the second is a part of the first
STATIC = _read_static()
TEMPLATES = _make_environment()


def render_text(name: str, **values: Any) -> str:
    """Return what a template makes of values."""
    return TEMPLATES.get_template(name).render(values)


def render(name: str, status: int = 200, **values: Any) -> Response:
    """Return a page made from its template. A passcode's pages hold no script and no form, and need neither."""
    body = render_text(name, **values).encode("utf-8", "replace")
    frame = values.get("frame")
    forms = FORMS if frame is None or frame.visitor.session else {}
    return Response(body, status, SECURITY | PRIVATE | forms, HTML)


def show_mail(html: str) -> Response:
    """Return a mail as the answer to a frame of a page, which nothing in it can reach."""
    headers = SECURITY | PRIVATE | {"Content-Security-Policy": MAIL_POLICY}
    return Response(html.encode("utf-8", "replace"), 200, headers, HTML)


def refuse_page(request: Request, problem: Problem) -> Response:
    """Return a page that says what is wrong; at 401 the log-in, never which half of one was wrong."""
    status, asks = problem.status, request.scope.get(ASKS, "passcode")
    fragment = "hx-request" in request.headers
    if status == 401:
        here = request.scope["path"] if request.method in ("GET", "HEAD") and not fragment else "/dashboard/"
        response = render("login.html", status, asks=asks, email="", error="", next=here)
        if fragment:
            response.headers["HX-Refresh"] = "true"  # the page around it then asks for the log-in
        elif asks == "passcode":
            response.headers.update(CHALLENGE)
    elif fragment:
        response = render("trouble.html", status, text=problem.error)
        if request.headers.get("hx-request-type") == "full":  # a part is picked from it, which is not in here
            response.headers.update(PLACE_OF_TROUBLE)
    else:
        headline = getattr(ENGLISH, HEADLINES.get(status, "refused_other"))
        response = render("refusal.html", status, headline=headline, text=problem.error)
        response.headers.update(SECURITY)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response


def redirect(address: str, status: int = 303) -> Response:
    """Send the browser to another page."""
    headers = SECURITY | PRIVATE | {"Location": address}
    return Response(status_code=status, media_type=HTML, headers=headers)


def serve_static(name: str) -> Response:
    if name not in STATIC:
        raise Problem("There is no such file.", code=404, status=404)
    kind, content = STATIC[name]
    caching = {"Cache-Control": f"public, max-age={STATIC_SECONDS}"}
    return Response(content, media_type=kind, headers=SECURITY | caching)
