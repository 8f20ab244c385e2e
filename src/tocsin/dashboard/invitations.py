"""Links by mail: an invitation to an account, and another password for who forgot theirs.

They go out by the relay of one account, which whoever runs the server names: a link proves that somebody reads the
mailbox, and what an account's own relay carries its admins could read.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid

import msgspec
import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.authenticator.members import (
    ROLES,
    add_member,
    find_password,
    read_email,
    remove_member,
    set_password,
)
from tocsin.authenticator.password import LONGEST, SHORTEST, hash_password
from tocsin.authenticator.tickets import (
    Kind,
    Ticket,
    end_tickets,
    find_open_ticket,
    find_ticket,
    make_ticket,
    use_ticket,
)
from tocsin.dashboard.form_entry import FormMistake
from tocsin.dashboard.page import Visitor, redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import address_of, read_form, read_signed_form, require_member, require_same_origin
from tocsin.errors import Misconfigured, Problem
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Mail
from tocsin.providers.credential import find_settings
from tocsin.providers.smtp import Smtp, SmtpSettings
from tocsin.providers.transport import Transport

log = structlog.get_logger()

MAIL_SECONDS = 20.0
RESETS_AT_ONCE = 8  # mails of resets under way; who asks for more is answered as ever, and gets none
LINKS: dict[Kind, str] = {"join": "invitation", "reset": "password link"}  # as the audit log calls them
_RESETS: set[asyncio.Task[None]] = set()


def can_mail(context: Context) -> bool:
    """Return whether links can be sent: somebody carries them, and the world knows where they lead."""
    return bool(context.settings.mail_account and context.settings.public_url)


def _can_reset(context: Context) -> bool:
    return can_mail(context) and context.settings.password_log_in


async def invite(context: Context, visitor: Visitor, asked: str, role: str) -> tuple[str, FormMistake | None]:
    """Send an invitation to an account. Return whom it went to, or what is wrong."""
    account, now = visitor.account, context.clock()
    if not can_mail(context):
        return "", FormMistake("email", ENGLISH.no_mails)
    try:
        email = read_email(asked)
    except Misconfigured as error:
        return "", FormMistake("email", str(error))
    if role not in ROLES:
        return "", FormMistake("role", ENGLISH.not_a_choice.format(label=ENGLISH.role))

    def write(connection: Connection) -> str | None:
        again = find_open_ticket(connection, account.id, "join", email, now) is not None
        token = make_ticket(connection, "join", email, now, account.id, role, visitor.who)
        if token is not None:
            said = "invitation sent again" if again else "member invited"
            note(connection, account.id, visitor.who, said, f"{email} as {role}", now)
        return token

    token = await context.ledger.write(write)
    if token is None:
        return "", FormMistake("email", ENGLISH.too_many_invitations)
    text = ENGLISH.join_mail.format(who=visitor.who, account=account.name, link=_link(context, token))
    if trouble := await _send(context, email, ENGLISH.join_subject.format(account=account.name), text):
        return "", FormMistake("email", ENGLISH.mail_failed.format(trouble=trouble))
    return email, None


async def take_back(context: Context, visitor: Visitor, kind: str, email: str) -> None:
    """Make an open link useless. Raise Problem when there is none."""
    account_id, now = visitor.account.id, context.clock()

    def write(connection: Connection) -> bool:
        found = find_open_ticket(connection, account_id, kind, email, now)
        if found is None:
            return False
        end_tickets(connection, found.kind, email, now, account_id if found.kind == "join" else "")
        note(connection, account_id, visitor.who, f"{LINKS[found.kind]} revoked", email, now)
        return True

    if not await context.ledger.write(write):
        raise Problem(ENGLISH.no_such_link, code=404, status=404)


async def send_again(context: Context, visitor: Visitor, kind: str, email: str) -> tuple[str, FormMistake | None]:
    """Send another link in place of one that is open. Return whom it went to, or what is wrong. Raise Problem when
    there is none."""
    account_id, now = visitor.account.id, context.clock()
    found = await context.ledger.read(lambda one: find_open_ticket(one, account_id, kind, email, now))
    if found is None:
        raise Problem(ENGLISH.no_such_link, code=404, status=404)
    if found.kind == "join":
        return await invite(context, visitor, email, found.role)
    if not _can_reset(context):
        return "", FormMistake("", ENGLISH.no_mails)

    def write(connection: Connection) -> str | None:
        token = make_ticket(connection, "reset", email, now)
        if token is not None:
            note(connection, account_id, visitor.who, f"{LINKS['reset']} sent again", email, now)
        return token

    token = await context.ledger.write(write)
    if token is None:
        return "", FormMistake("", ENGLISH.too_many_resets)
    if trouble := await _send(context, email, ENGLISH.reset_subject, _write_reset(context, token)):
        return "", FormMistake("", ENGLISH.mail_failed.format(trouble=trouble))
    return email, None


async def remove(context: Context, request: Request) -> Response:
    """Take somebody else out of the account."""
    visitor, _ = await require_member(context, request, "admin")
    email, now = (await read_signed_form(context, request, visitor)).one("email"), context.clock()
    if email == visitor.who:
        raise Problem(ENGLISH.not_oneself)
    out = await context.ledger.write(lambda one: remove_member(one, email, visitor.account.id, now, visitor.who))
    if not out:
        raise Problem(ENGLISH.no_such_member, code=404, status=404)
    return redirect("/dashboard/settings#members")


async def show_forgot(context: Context, request: Request) -> Response:
    """Ask for the address that a link to another password goes to."""
    return render("forgot.html", possible=_can_reset(context), sent=False)


async def send_reset(context: Context, request: Request) -> Response:
    """Mail a link to another password. The answer is the same for everybody, and waits for no mail."""
    require_same_origin(request)
    form, now = await read_form(context, request), context.clock()
    context.authenticator.check_pace("", address_of(request), now)
    context.authenticator.refuse_password("", address_of(request), now, "reset")  # counted, as wrong log-ins are
    email = form.one("email").lower()
    if _can_reset(context) and len(_RESETS) < RESETS_AT_ONCE:
        task = asyncio.create_task(_reset(context, email, now))
        _RESETS.add(task)
        task.add_done_callback(_RESETS.discard)
    return render("forgot.html", possible=_can_reset(context), sent=True)


async def show_ticket(context: Context, request: Request) -> Response:
    """Show what a link is good for."""
    token = request.query_params.get("ticket", "")
    ticket, new = await _look(context, token)
    return render("ticket.html", ticket=ticket, token=token, new=new, mistake=None)


async def take_ticket(context: Context, request: Request) -> Response:
    """Do what a link is good for, once."""
    require_same_origin(request)
    form, now = await read_form(context, request), context.clock()
    context.authenticator.check_pace("", address_of(request), now)
    token, password = form.one("ticket"), (form.get("password") or [""])[-1]
    ticket, new = await _look(context, token)
    hashed = None
    if not new:  # who joins and logs in elsewhere has a password that nobody knows
        hashed = await asyncio.to_thread(hash_password, secrets.token_urlsafe(32))
    else:
        if not SHORTEST <= len(password) <= LONGEST:
            mistake = FormMistake("password", ENGLISH.password_length.format(shortest=SHORTEST, longest=LONGEST))
            return render("ticket.html", 422, ticket=ticket, token=token, new=new, mistake=mistake)
        hashed = await asyncio.to_thread(hash_password, password)

    def write(connection: Connection) -> bool:
        used = use_ticket(connection, token, now)
        if used is None:
            return False
        if used.kind == "join":
            add_member(connection, used.email, hashed, used.account_id, used.role, now, used.email)
            return True
        return set_password(connection, used.email, hashed or "", now, used.email)

    if not await context.ledger.write(write):
        raise Problem(ENGLISH.ticket_over, code=404, status=404)
    return redirect("/dashboard/login")


async def _look(context: Context, token: str) -> tuple[Ticket, bool]:
    """Return what a link is good for, and whether it needs a password. Raise Problem when it is good for nothing."""

    def read(connection: Connection) -> tuple[Ticket, bool] | None:
        ticket = find_ticket(connection, token, context.clock())
        asks = context.settings.password_log_in
        if ticket is None or (ticket.kind == "reset" and not asks):
            return None
        return ticket, asks and (ticket.kind == "reset" or find_password(connection, ticket.email) is None)

    found = await context.ledger.read(read)
    if found is None:
        raise Problem(ENGLISH.ticket_over, code=404, status=404)
    return found


async def _reset(context: Context, email: str, now: float) -> None:
    try:
        if await context.ledger.read(lambda one: find_password(one, email)) is None:
            return
        token = await context.ledger.write(lambda one: make_ticket(one, "reset", email, now))
        if token and (trouble := await _send(context, email, ENGLISH.reset_subject, _write_reset(context, token))):
            log.warning("a link to another password could not be mailed", trouble=trouble)
    except Exception:
        log.exception("a link to another password could not be made")


def _write_reset(context: Context, token: str) -> str:
    return str(ENGLISH.reset_mail.format(link=_link(context, token)))


def _link(context: Context, token: str) -> str:
    return f"{context.settings.public_url}/dashboard/ticket?ticket={token}"


async def _send(context: Context, email: str, subject: str, text: str) -> str:
    """Send one mail by the relay of the server's own account. Return what went wrong, "" for nothing."""
    settings, account_id = context.settings, context.settings.mail_account
    stored = await context.ledger.read(lambda one: find_settings(one, account_id, "smtp", settings.secret_key))
    if stored is None:
        return str(ENGLISH.no_relay)
    mail = Mail(id=str(uuid.uuid4()), campaign="", address=Address("email", email), subject=subject, text=text, html="")
    try:
        async with Transport() as transport, asyncio.timeout(MAIL_SECONDS):
            relay = Smtp(msgspec.json.decode(stored, type=SmtpSettings), transport)
            came = await relay.send(mail, context.clock())
    except (TimeoutError, Misconfigured, msgspec.DecodeError) as error:
        return str(error) or str(ENGLISH.timed_out)
    if came.outcome is Outcome.ACCEPTED:
        return ""
    return f"{came.code} {came.detail}".strip()
