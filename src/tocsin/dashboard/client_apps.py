"""Apps whose SDKs report here: their ids and tokens, made and removed."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.authenticator.apps import APP_PLATFORMS, add_app, list_apps, remove_app
from tocsin.authenticator.audit import note
from tocsin.dashboard.form_entry import Entry, FormMistake, read_entries
from tocsin.dashboard.page import Frame, Visitor, redirect, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import FormFields, read_signed_form, require_member
from tocsin.errors import Misconfigured, Problem

PATH = "/dashboard/settings/apps"
FIELDS = ("name", "sdk_id", "app_token")


async def show_apps(context: Context, request: Request) -> Response:
    """Show the account's apps, and the form of another one."""
    visitor, _ = await require_member(context, request, "admin")
    return await _show(context, visitor, FormFields())


async def change_apps(context: Context, request: Request) -> Response:
    """Make an app, or remove one."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    account_id, now, name = visitor.account.id, context.clock(), form.one("name")
    if form.one("do") == "remove":
        try:
            await asyncio.to_thread(remove_app, context.ledger, account_id, name)
        except Misconfigured:
            raise Problem(ENGLISH.no_such_app, code=404, status=404) from None
        await context.ledger.write(lambda one: note(one, account_id, visitor.who, "app removed", name, now))
        return redirect(PATH)
    try:
        read_entries(_entries(form))
        platforms = ",".join(one for one in APP_PLATFORMS if one in form.get("platforms", []))
        identifiers = {"sdk_id": form.one("sdk_id"), "token": form.one("app_token"), "platforms": platforms}
        await asyncio.to_thread(add_app, context.ledger, account_id, name, now, **identifiers)
    except Misconfigured as error:
        named = str(error)
        place = "app_token" if "token" in named and form.one("app_token") else "sdk_id" if " id " in named else "name"
        return await _show(context, visitor, form, FormMistake(place, named))
    except FormMistake as mistake:
        return await _show(context, visitor, form, mistake)
    await context.ledger.write(lambda one: note(one, account_id, visitor.who, "app made", name, now))
    return redirect(PATH)


async def _show(context: Context, visitor: Visitor, form: FormFields, mistake: FormMistake | None = None) -> Response:
    apps = await asyncio.to_thread(list_apps, context.ledger, visitor.account.id)
    values = {"apps": apps, "entries": _entries(form), "mistake": mistake, "platforms": APP_PLATFORMS}
    chosen = form.get("platforms", list(APP_PLATFORMS))
    frame = Frame(visitor, context.clock(), "settings")
    return render("apps.html", 422 if mistake else 200, frame=frame, chosen=chosen, **values)


def _entries(form: FormFields) -> list[Entry]:
    return [
        Entry(
            name=name,
            label=ENGLISH.app_fields[name],
            hint=ENGLISH.app_hints.get(name, ""),
            value=form.one(name),
            given=form.one(name),
            required=name == "name",
        )
        for name in FIELDS
    ]
