"""Settings of an account, the state of the server, and the first steps."""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import RIGHTS, Right, add_passcode, list_passcodes, revoke_passcode
from tocsin.api.context import Context
from tocsin.authenticator.audit import list_deeds, note
from tocsin.authenticator.members import ROLES, list_members
from tocsin.authenticator.tickets import list_open_tickets
from tocsin.dashboard.campaigns import read_page
from tocsin.dashboard.credentials import FIELDS
from tocsin.dashboard.form_entry import FormMistake
from tocsin.dashboard.invitations import can_mail, invite, send_again, take_back
from tocsin.dashboard.page import Frame, Visitor, redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import FormFields, log_in, read_signed_form, require_member
from tocsin.errors import Misconfigured, Problem
from tocsin.ingest import upload
from tocsin.ingest.names import read_limits
from tocsin.providers import BY_NAME
from tocsin.providers.encryption import read_keys
from tocsin.providers.keyring import ask_sandbox, keep_providers, read_given
from tocsin.store import schema
from tocsin.store.lock import lock_account

DEEDS = 50  # of the audit log on a page
DAY = 86_400.0
LONGEST_DAYS = 36_500
LABEL_LETTERS = 100
SAMPLES = ("Ana", "Ben", "Chi", "Dov", "Eva")


class FirstStep(msgspec.Struct, frozen=True):
    """One of the first steps, and whether it is done."""

    key: str
    done: bool


class ProviderLine(msgspec.Struct, frozen=True):
    """A provider as it is shown: nothing of its settings is."""

    name: str
    platform: str
    changed_at: float | None
    form: bool


async def show_settings(context: Context, request: Request) -> Response:
    """Show providers, passcodes, members and the audit log."""
    visitor, _ = await require_member(context, request, "admin")
    return await _show_settings(context, request, visitor)


async def change_passcodes(context: Context, request: Request) -> Response:
    """Make a passcode, which is shown once, or revoke those of a label."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    label, now, account_id = form.one("label"), context.clock(), visitor.account.id
    if form.one("do") == "revoke":
        await asyncio.to_thread(revoke_passcode, context.ledger, account_id, label, now)
        await context.ledger.write(lambda one: note(one, account_id, visitor.who, "passcode revoked", label, now))
        return redirect("/dashboard/settings#passcodes")
    try:
        rights, ends = _read_passcode(form, now)
        made = await asyncio.to_thread(add_passcode, context.ledger, account_id, label, now, rights, ends)
    except (Misconfigured, FormMistake) as error:
        mistake = error if isinstance(error, FormMistake) else FormMistake("", str(error))
        return await _show_settings(context, request, visitor, form=form, mistake=mistake)
    detail = f"{label}: {', '.join(rights)}"
    await context.ledger.write(lambda one: note(one, account_id, visitor.who, "passcode made", detail, now))
    return await _show_settings(context, request, visitor, made)


def _read_passcode(form: FormFields, now: float) -> tuple[list[Right], float | None]:
    """Return the rights and the end of a passcode that a form asks for. Raise FormMistake."""
    label, days = form.one("label"), form.one("days")
    if not label:
        raise FormMistake("label", ENGLISH.passcode_needs_label)
    if len(label) > LABEL_LETTERS or not label.isprintable():
        raise FormMistake("label", ENGLISH.passcode_label_wrong)
    if days and not (days.isascii() and days.isdigit() and 0 < int(days[:9]) <= LONGEST_DAYS):
        raise FormMistake("days", ENGLISH.passcode_days_wrong)
    if not (rights := [right for right in RIGHTS if right in form.get("rights", [])]):
        raise FormMistake("rights", ENGLISH.passcode_needs_rights)
    return rights, now + int(days) * DAY if days else None


async def invite_member(context: Context, request: Request) -> Response:
    """Mail somebody a link by which they join the account."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    invited, mistake = await invite(context, visitor, form.one("email"), form.one("role"))
    return await _show_settings(context, request, visitor, form=form, mistake=mistake, invited=invited)


async def change_invitation(context: Context, request: Request) -> Response:
    """Make an open link useless, or send another in its place."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    kind, email = form.one("kind"), form.one("email")
    if form.one("do") == "revoke":
        await take_back(context, visitor, kind, email)
        return redirect("/dashboard/settings#members")
    invited, mistake = await send_again(context, visitor, kind, email)
    mistake = mistake and FormMistake("", mistake.sentence)  # what is wrong is no field of the form for another one
    return await _show_settings(context, request, visitor, mistake=mistake, invited=invited)


async def show_system(context: Context, request: Request) -> Response:
    """Show whether the stores answer, and what waits."""
    visitor = await log_in(context, request)
    trouble = ""
    try:
        await context.health.check()
    except Problem as problem:
        trouble = problem.error
    waiting = await context.health.read_backlog()
    return render("system.html", frame=Frame(visitor, context.clock(), "system"), trouble=trouble, waiting=waiting)


async def show_first_steps(context: Context, request: Request) -> Response:
    """Show what leads from an empty account to a first push."""
    visitor, _ = await require_member(context, request, "marketer")
    return await _show_steps(context, visitor)


async def take_step(context: Context, request: Request) -> Response:
    """Point an empty account at the sandbox, or make the people to try it with."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    if form.one("do") == "sandbox":
        return await _use_sandbox(context, await log_in(context, request, "admin"))
    return await _make_samples(context, visitor)


async def _use_sandbox(context: Context, visitor: Visitor) -> Response:
    """Set every provider to the sandbox of this machine. What is set already stays: it may be real."""
    account_id, now, port = visitor.account.id, context.clock(), context.settings.sandbox_port
    try:
        if not port:
            raise Misconfigured(ENGLISH.no_sandbox)
        found = await asyncio.to_thread(ask_sandbox, port)
        settings = await asyncio.to_thread(lambda: {name: read_given(name, one) for name, one in found.items()})
    except Misconfigured as error:
        return await _show_steps(context, visitor, str(error))
    keys = read_keys(context.settings.secret_key)

    def write(connection: Connection) -> bool:
        lock_account(connection, account_id)
        if connection.scalar(select(schema.provider.c.name).where(schema.provider.c.account_id == account_id).limit(1)):
            return False
        keep_providers(connection, keys, account_id, settings, now)
        note(connection, account_id, visitor.who, "providers pointed at the sandbox", ", ".join(settings), now)
        return True

    if not await context.ledger.write(write):
        return await _show_steps(context, visitor, ENGLISH.providers_there)
    return redirect("/dashboard/start")


async def _show_steps(context: Context, visitor: Visitor, trouble: str = "") -> Response:
    steps = await context.ledger.read(lambda connection: _list_steps(connection, visitor.account.id))
    values = {
        "steps": steps,
        "following": next((step.key for step in steps if not step.done), ""),
        "trouble": trouble,
        "offers_sandbox": bool(context.settings.sandbox_port),
    }
    return render("start.html", 409 if trouble else 200, frame=Frame(visitor, context.clock()), **values)


async def _make_samples(context: Context, visitor: Visitor) -> Response:
    """Upload a few made-up people with devices and an event, through the function behind `/1/upload`."""
    now, records = context.clock(), []
    for name in SAMPLES:
        identity, device = f"sample-{name.lower()}", f"sample-device-{name.lower()}"
        profile = {"Name": name, "Email": f"{name.lower()}@example.com", "Plan": "Gold" if name < "C" else "Silver"}
        token = {"type": "fcm", "id": f"{identity}:fcm-registration-token"}
        records += [
            {"type": "profile", "identity": identity, "objectId": device, "profileData": profile},
            {"type": "token", "objectId": device, "tokenData": token},
            {
                "type": "event",
                "identity": identity,
                "evtName": "Product Viewed",
                "ts": int(now),
                "evtData": {"Version": 1},
            },
        ]
    limits = read_limits(context.settings)
    await upload(context.ledger, context.facts, visitor.account, {"d": records}, now, limits=limits)
    account_id = visitor.account.id
    await context.ledger.write(lambda one: note(one, account_id, visitor.who, "sample people made", "", now))
    return redirect("/dashboard/start")


async def _show_settings(
    context: Context,
    request: Request,
    visitor: Visitor,
    made: str = "",
    *,
    form: FormFields | None = None,
    mistake: FormMistake | None = None,
    invited: str = "",
) -> Response:
    account_id, number = visitor.account.id, read_page(request.query_params.get("page", ""))
    now = context.clock()

    def read(connection: Connection) -> tuple[object, ...]:
        table = schema.provider
        query = select(table.c.name, table.c.changed_at).where(table.c.account_id == account_id)
        stored = {row.name: row.changed_at for row in connection.execute(query)}
        providers = [
            ProviderLine(name, kind.platform, stored.get(name), name in FIELDS) for name, kind in BY_NAME.items()
        ]
        deeds = list_deeds(connection, account_id, DEEDS + 1, (number - 1) * DEEDS)
        return providers, list_members(connection, account_id), list_open_tickets(connection, account_id, now), deeds

    providers, members, links, deeds = await context.ledger.read(read)
    passcodes = await asyncio.to_thread(list_passcodes, context.ledger, account_id)
    values = {"providers": providers, "members": members, "deeds": deeds, "most": DEEDS, "number": number}
    values |= {"passcodes": passcodes, "made": made, "rights": RIGHTS, "form": form or FormFields(), "mistake": mistake}
    values |= {"links": links, "invited": invited, "roles": ROLES, "can_mail": can_mail(context)}
    frame = Frame(visitor, now, "settings")
    return render("settings.html", 422 if mistake else 200, frame=frame, **values)


def _list_steps(connection: Connection, account_id: str) -> list[FirstStep]:
    def has(table: object, *conditions: object) -> bool:
        query = select(func.count()).select_from(table).where(table.c.account_id == account_id, *conditions)  # type: ignore[attr-defined, arg-type]
        return bool(connection.scalar(query.limit(1)))

    known, run = schema.known_name, schema.run
    return [
        FirstStep("provider", has(schema.provider)),
        FirstStep("people", has(schema.device)),
        FirstStep("event", has(known, known.c.kind == "event_names")),
        FirstStep("campaign", has(schema.campaign)),
        FirstStep("result", has(run, run.c.ended_at.is_not(None))),
    ]
