"""Log-in by the identity provider: a link leads there, and it leads back.

What was begun is in a cookie that only we can write, for some minutes: its state is in the address that the provider
leads back to, and each is good once in a process, as the provider's code is everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets

import jwt
from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.authenticator.members import add_member, find_password, read_email
from tocsin.authenticator.password import hash_password
from tocsin.authenticator.refused_logins import group_address
from tocsin.authenticator.session import LONGEST_SECONDS, open_session
from tocsin.dashboard.entrance import HOME, PLACE, set_cookie
from tocsin.dashboard.page import redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import address_of, find_ways_in, is_https
from tocsin.errors import Misconfigured, Problem
from tocsin.store import schema
from tocsin.store.signing_key import find_signing_keys

COOKIE = "tocsin_oidc"
PATH = "/dashboard/oidc"
SECONDS = 600  # to log in at the provider
BEGUN = 10_000  # log-ins whose states are remembered as used
WHO = "identity provider"


async def begin(context: Context, request: Request) -> Response:
    """Lead the browser to the identity provider."""
    if not context.identity_provider.on:
        raise Problem(ENGLISH.no_provider_log_in, code=404, status=404)
    now, address = context.clock(), address_of(request)
    context.authenticator.check_pace("", address, now)
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    place = request.query_params.get("next", "")
    begun = {"state": state, "nonce": nonce, "verifier": verifier, "next": place if PLACE.fullmatch(place) else HOME}
    try:
        there = await context.identity_provider.make_address(state, nonce, verifier, now)
    except Problem as problem:
        context.authenticator.refuse_password("", address, now, "oidc")  # so that nobody has it asked again and again
        return _refuse(context, problem)
    key = await context.ledger.read(_read_key)
    response = redirect(there)
    response.set_cookie(
        COOKIE,
        jwt.encode(begun | {"exp": int(now) + SECONDS}, key, algorithm="HS256"),
        max_age=SECONDS,
        path=PATH,
        secure=is_https(request),
        httponly=True,
        samesite="lax",
    )
    return response


async def finish(context: Context, request: Request) -> Response:
    """Open a session for whom the identity provider sends back. Everybody else is told why not, and begins again."""
    if not context.identity_provider.on:
        raise Problem(ENGLISH.no_provider_log_in, code=404, status=404)
    now, address = context.clock(), address_of(request)
    context.authenticator.check_pace("", address, now)
    # A refusal is counted when the provider has answered, and so many may be under way until then.
    context.identity_provider.places.take(group_address(address), request.scope[HELD])
    try:
        begun = await _find_begun(context, request, now)
        code = _read_code(context, request)
        found = await context.identity_provider.redeem(code, begun["verifier"], begun["nonce"], now)
        token = await _open(context, found, address, now)
    except Problem as problem:
        context.authenticator.refuse_password("", address, now, "oidc")
        return _refuse(context, problem)
    response = redirect(begun["next"])
    response.delete_cookie(COOKIE, path=PATH)
    set_cookie(request, response, token, int(LONGEST_SECONDS))
    return response


async def _find_begun(context: Context, request: Request, now: float) -> dict[str, str]:
    """Return what was begun in this browser under the state it comes back with, once. Raise Problem."""
    key = await context.ledger.read(_read_key)
    try:
        begun: dict[str, str] = jwt.decode(request.cookies.get(COOKIE, ""), key, algorithms=["HS256"])
    except jwt.PyJWTError:
        raise Problem(ENGLISH.log_in_not_begun, code=401, status=401) from None
    state = request.query_params.get("state", "")
    used = context.identity_provider.used
    for one in [one for one, ends in used.items() if ends < now]:
        del used[one]
    if not hmac.compare_digest(state.encode(), begun["state"].encode()) or state in used:
        raise Problem(ENGLISH.log_in_not_begun, code=401, status=401)
    if len(used) >= BEGUN:
        raise Problem(ENGLISH.log_in_slow, code=429, status=429)
    used[state] = now + SECONDS
    return begun


def _read_code(context: Context, request: Request) -> str:
    """Return the code that the provider sends back. Raise Problem for its refusal, and for another provider's."""
    asked = request.query_params
    if asked.get("iss", context.settings.oidc_issuer) != context.settings.oidc_issuer:  # RFC 9207
        raise Problem(ENGLISH.log_in_not_begun, code=401, status=401)
    if "error" in asked or not asked.get("code"):
        said = asked.get("error", "")[:80]
        raise Problem(ENGLISH.provider_refused.format(said=said), code=401, status=401)
    return asked["code"]


async def _open(context: Context, found: str, address: str, now: float) -> str:
    """Return the token of a session of whoever has this mailbox. Raise Problem for somebody who may not log in."""
    try:
        email = read_email(found)
    except Misconfigured as error:
        raise Problem(str(error), code=401, status=401) from None
    domain, _, account_id = context.settings.oidc_viewers.partition(":")
    welcome = bool(domain) and email.rpartition("@")[2] == domain
    unknown = await context.ledger.read(lambda one: find_password(one, email)) is None
    hashed = await asyncio.to_thread(hash_password, secrets.token_urlsafe(32)) if welcome and unknown else ""

    def write(connection: Connection) -> str | None:
        known = find_password(connection, email)
        if known is None and hashed and connection.scalar(select(schema.account.c.id).filter_by(id=account_id)):
            add_member(connection, email, hashed, account_id, "viewer", now, WHO)
            known = find_password(connection, email)
        opened = None if known is None else open_session(connection, known[0], now)
        if opened is None:
            return None
        note(connection, opened[1], email, "logged in", f"{address} by {WHO}", now)
        return opened[0]

    token = await context.ledger.write(write)
    if token is None:
        raise Problem(ENGLISH.no_member_of_provider.format(email=email), code=403, status=403)
    return token


def _refuse(context: Context, problem: Problem) -> Response:
    values = {"asks": find_ways_in(context), "email": "", "next": HOME}
    response = render("login.html", problem.status, error=problem.error, **values)
    response.delete_cookie(COOKIE, path=PATH)
    return response


def _read_key(connection: Connection) -> bytes:
    return hmac.new(find_signing_keys(connection)[0].value, b"oidc", hashlib.sha256).digest()
