"""Who is asking: somebody with a session, or with HTTP Basic and a passcode; and the forms they send."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from tocsin.api.context import Context, read_single
from tocsin.authenticator.members import Role, has_members
from tocsin.authenticator.session import MemberSession, find_session, touch_session
from tocsin.dashboard.page import ASKS, Visitor
from tocsin.dashboard.texts import ENGLISH
from tocsin.errors import Problem

COOKIE = "tocsin_session"
SECURE_COOKIE = "__Host-tocsin_session"
FIELDS = 2000  # of one form
FORM_TYPE = "application/x-www-form-urlencoded"


class NotLoggedIn(Problem):
    """Nobody is logged in."""

    def __init__(self) -> None:
        super().__init__("Log in first.", code=401, status=401)


class FormFields(dict[str, list[str]]):
    """The fields of a form, each with its values in order."""

    def one(self, name: str, default: str = "") -> str:
        """Return the last value of a field, without spaces around it."""
        return self[name][-1].strip() if self.get(name) else default

    def flat(self) -> Mapping[str, str]:
        """Return the fields by their last value."""
        return {name: values[-1] for name, values in self.items()}


async def log_in(context: Context, request: Request, role: Role = "viewer") -> Visitor:
    """Return who asks: by the session's cookie, else by HTTP Basic with an account's id and a passcode that may read.
    Raise Problem 401, 403 for somebody who may not do what the role may, 429."""
    if (session := await find_visitor(context, request)) is not None:
        visitor = Visitor(session.account, session.role, session)
        context.large_bodies.note(session.account.id)
    elif (header := read_single(request, "authorization")[0]) is not None:
        visitor = Visitor(await context.check(request, *_read_basic(header)), "viewer")
    else:
        members = await context.ledger.read(has_members)
        if members and request.headers.get("sec-fetch-mode", "navigate" if _is_browser(request) else "") == "navigate":
            request.scope[ASKS] = find_ways_in(context)  # a page with a form, instead of the browser's own question
        raise NotLoggedIn
    if not visitor.may(role):
        raise Problem(ENGLISH.needs_role.format(role=getattr(ENGLISH, f"role_{role}")), code=403, status=403)
    return visitor


def find_ways_in(context: Context) -> str:
    """Return how people log in: by «password», by the identity «provider», by «either»."""
    if not context.identity_provider.on:
        return "password"
    return "either" if context.settings.password_log_in else "provider"


async def require_member(context: Context, request: Request, role: Role) -> tuple[Visitor, MemberSession]:
    """Return who asks, for what a passcode is not enough for. Raise Problem as `log_in` does."""
    session = await find_visitor(context, request)
    if session is None:
        request.scope[ASKS] = find_ways_in(context)
        raise NotLoggedIn
    return await log_in(context, request, role), session


async def read_signed_form(context: Context, request: Request, visitor: Visitor) -> FormFields:
    """Return the form of somebody logged in. Raise Problem 403 for one that is of another site, session or account."""
    require_same_origin(request)
    form = await read_form(context, request, visitor.account.id)
    if not hmac.compare_digest(form.one("token").encode(), visitor.form_token.encode()):
        raise Problem(ENGLISH.stale_form, code=403, status=403)
    return form


async def read_form(context: Context, request: Request, owner: str = "") -> FormFields:
    """Return the fields of a request. Raise Problem 400, 413, 415."""
    if not request.headers.get("content-type", "").startswith(FORM_TYPE):
        raise Problem(f"Content-Type must be {FORM_TYPE}", code=415, status=415)
    raw = await (context.read_body(request, owner) if owner else context.read_body(request))
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="replace")
    except ValueError:
        raise Problem("The form cannot be read.") from None
    form = FormFields()
    for name, value in pairs:
        if "\0" in name or "\0" in value:  # PostgreSQL takes no NUL in a text
            raise Problem("The form holds a NUL.")
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form


async def find_visitor(context: Context, request: Request) -> MemberSession | None:
    """Return the session of a request's cookie, if it is good, and note that it is in use: by somebody, not by a page
    that follows its list."""
    token = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    if not token:
        return None
    now = context.clock()
    session = await context.ledger.read(lambda connection: find_session(connection, token, now))
    if session is not None and session.stale and not is_live(request):
        await context.ledger.write(lambda connection: touch_session(connection, token, now), durable=False)
    return session


def is_live(request: Request) -> bool:
    """Return whether a page asks by itself for the part of it that changes."""
    return request.query_params.get("live") == "1"


def require_same_origin(request: Request) -> None:
    """Raise Problem 403 for a form that a page of another site sends: browsers say whose it is. Who is no browser says
    nothing, and has no cookie that somebody else could use."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        good = site == "same-origin"
    else:
        good = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if not good:
        raise Problem(ENGLISH.other_site, code=403, status=403)


def is_https(request: Request) -> bool:
    """Return whether the browser reached us over TLS, here or at the proxy in front."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _is_browser(request: Request) -> bool:
    """Browsers leave out Sec-Fetch-Mode over plain http, except on this machine."""
    return "mozilla" in request.headers.get("user-agent", "").lower()


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
