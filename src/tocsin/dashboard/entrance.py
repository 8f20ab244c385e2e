"""In and out: log-in with e-mail and password, log-out, and the switch to another account."""

from __future__ import annotations

import re

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.authenticator.members import find_password, list_parts
from tocsin.authenticator.session import LONGEST_SECONDS, close_session, open_session, switch_account
from tocsin.dashboard.page import redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import (
    COOKIE,
    SECURE_COOKIE,
    NotLoggedIn,
    address_of,
    find_visitor,
    find_ways_in,
    is_https,
    log_in,
    read_form,
    read_signed_form,
    require_member,
    require_same_origin,
)
from tocsin.errors import Problem

HOME = "/dashboard/"
PLACE = re.compile(r"/dashboard/[\w/?=&%.+-]*")


async def show_log_in(context: Context, request: Request) -> Response:
    """Show the form; with `?with=passcode` let the browser ask for account id and passcode, as for a machine."""
    if await find_visitor(context, request) is not None:
        return redirect(HOME)
    if request.query_params.get("with") == "passcode":
        if "authorization" not in request.headers:
            raise NotLoggedIn
        await log_in(context, request)
        return redirect(HOME)
    return render("login.html", asks=find_ways_in(context), email="", error="", next=HOME)


async def enter(context: Context, request: Request) -> Response:
    """Open a session for who knows the password. The answer to everybody else is the same, and takes as long."""
    require_same_origin(request)
    if not context.settings.password_log_in:
        raise Problem(ENGLISH.no_passwords, code=403, status=403)
    form, now, address = await read_form(context, request), context.clock(), address_of(request)
    email, place = form.one("email").lower(), form.one("next")
    known = await context.ledger.read(lambda connection: find_password(connection, email))
    person = email if known else ""
    try:
        context.authenticator.check_pace(person, address, now)
    except Problem as slow:
        answer = render(
            "login.html", 429, asks=find_ways_in(context), email=email, error=ENGLISH.log_in_slow, next=place
        )
        answer.headers["Retry-After"] = str(slow.retry_after)
        return answer
    given = form["password"][-1] if form.get("password") else ""
    good = await context.passwords.check(known[1] if known else None, given)
    opened = None
    if good and known is not None:
        member_id = known[0]

        def open_now(connection: Connection) -> tuple[str, str] | None:
            opened = open_session(connection, member_id, now)
            if opened is not None:
                note(connection, opened[1], email, "logged in", address, now)
            return opened

        opened = await context.ledger.write(open_now)
    if opened is None:
        first = context.authenticator.refuse_password(person, address, now)
        if known is not None and first:  # a flood of them must not wash older lines out of the log
            await context.ledger.write(lambda one: _note_refusal(one, known[0], email, address, now))
        return render(
            "login.html", 401, asks=find_ways_in(context), email=email, error=ENGLISH.log_in_wrong, next=place
        )
    response = redirect(place if PLACE.fullmatch(place) else HOME)
    set_cookie(request, response, opened[0], int(LONGEST_SECONDS))
    return response


def _note_refusal(connection: Connection, member_id: int, email: str, address: str, now: float) -> None:
    for account, _ in list_parts(connection, member_id):
        note(connection, account.id, email, "log-in refused", address, now)


async def leave(context: Context, request: Request) -> Response:
    """End the session on the server, and forget its cookie."""
    require_same_origin(request)
    session = await find_visitor(context, request)
    if session is not None:
        visitor = await log_in(context, request)
        await read_signed_form(context, request, visitor)
        await context.ledger.write(lambda connection: close_session(connection, session.token))
    response = redirect("/dashboard/login")
    set_cookie(request, response, "", 0)
    return response


async def switch(context: Context, request: Request) -> Response:
    """Look at another account."""
    visitor, session = await require_member(context, request, "viewer")
    account_id = (await read_signed_form(context, request, visitor)).one("account")
    if not await context.ledger.write(lambda connection: switch_account(connection, session, account_id)):
        raise Problem(ENGLISH.no_such_account, code=404, status=404)
    return redirect(HOME)


def set_cookie(request: Request, response: Response, token: str, seconds: int) -> None:
    """Set the session's cookie: for this host only where there is TLS, which browsers ask of that name."""
    secure = is_https(request)
    response.set_cookie(
        SECURE_COOKIE if secure else COOKIE,
        token,
        max_age=seconds,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )
