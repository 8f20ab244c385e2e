"""What an account decided, as forms over the policies: caps, quiet hours, control group, conversion, retention, apps,
mails."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.channels import CHANNELS
from tocsin.dashboard.form_entry import Entry, FormMistake, read_entries, show_struct_mistake
from tocsin.dashboard.page import Frame, Visitor, redirect, render
from tocsin.dashboard.quiet_week import WeekForm, read_week, show_week
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import FormFields, read_signed_form, require_member
from tocsin.errors import Problem
from tocsin.policy import KINDS, Policy, clear_policy, load_policy, set_policy

# Those an account decides itself, in the order of the page; `limits` are for whoever runs the server.
OWN = ("caps", "dnd", "control", "conversion", "retention", "apps", "tracking")


async def show_policies(context: Context, request: Request) -> Response:
    """Show every policy of the account as a form."""
    visitor, _ = await require_member(context, request, "admin")
    return await _show(context, visitor, said=request.query_params.get("said", ""))


async def set_policies(context: Context, request: Request) -> Response:
    """Keep one policy, or take it back."""
    visitor, _ = await require_member(context, request, "admin")
    form = await read_signed_form(context, request, visitor)
    name, account_id, now = form.one("policy"), visitor.account.id, context.clock()
    if name not in OWN:
        raise Problem(ENGLISH.no_such_policy, code=404, status=404)
    if form.one("do") == "clear":
        await context.ledger.write(lambda one: clear_policy(one, account_id, name))
        await context.ledger.write(lambda one: note(one, account_id, visitor.who, "policy taken back", name, now))
        return redirect(f"/dashboard/settings/policies?said={name}#{name}")
    try:
        given = _read(name, form)
    except FormMistake as mistake:
        return await _show(context, visitor, name, form, mistake)

    def write(connection: Any) -> None:
        value = msgspec.json.encode(_keep_others(load_policy(connection, account_id), name, given)).decode()
        set_policy(connection, account_id, name, value, now)
        note(connection, account_id, visitor.who, "policy set", f"{name} {value}", now)

    await context.ledger.write(write)
    return redirect(f"/dashboard/settings/policies?said={name}#{name}")


async def _show(
    context: Context,
    visitor: Visitor,
    name: str = "",
    form: FormFields | None = None,
    mistake: FormMistake | None = None,
    said: str = "",
) -> Response:
    policy = await context.ledger.read(lambda connection: load_policy(connection, visitor.account.id))
    forms = {one: _entries(one, form if one == name and form else _values(one, policy)) for one in OWN}
    values = {"forms": forms, "mistake": mistake, "said": said if said in OWN else "", "wrong": name}
    frame = Frame(visitor, context.clock(), "settings")
    return render("policies.html", 422 if mistake else 200, frame=frame, **values)


def _groups(name: str) -> dict[str, type[msgspec.Struct]]:
    """Return the structs that a policy is made of, by what stands before their fields' names."""
    if name == "caps":
        return {f"{channel}-": get_args(KINDS[name])[1] for channel in CHANNELS}
    return {"": WeekForm if name == "dnd" else KINDS[name]}


def _list_fields(kind: type[msgspec.Struct]) -> list[msgspec.structs.FieldInfo]:
    """Return the fields that a form has; one with values by name has no place in it."""
    return [field for field in msgspec.structs.fields(kind) if get_origin(field.type) is not dict]


def _keep_others(policy: Policy, name: str, value: Any) -> Any:
    """Return a policy's new value with what is set of it and its form does not show."""
    kind, stored = KINDS[name], getattr(policy, name)
    if name in ("caps", "dnd") or stored is None:
        return value
    shown = [field.name for field in _list_fields(kind)]
    return {one: each for one, each in msgspec.to_builtins(stored).items() if one not in shown} | value


def _values(name: str, policy: Policy) -> FormFields:
    """Return a policy as the fields of its form."""
    stored = getattr(policy, name)
    stored = show_week(stored) if name == "dnd" and stored else msgspec.to_builtins(stored) or {}
    given = {prefix: stored.get(prefix[:-1]) or {} if prefix else stored for prefix in _groups(name)}
    form = FormFields()
    for prefix, fields in given.items():
        for field, value in fields.items():
            if isinstance(value, dict):
                continue
            shown = "yes" if value is True else "" if value in (None, False) else value
            form[f"{prefix}{field}"] = [f"{shown:g}" if isinstance(shown, float) else str(shown)]
    return form


def _entries(name: str, form: FormFields) -> list[Entry]:
    entries = []
    for prefix, kind in _groups(name).items():
        for field in _list_fields(kind):
            key, ticked = f"{prefix}{field.name}", field.type is bool
            choices = get_args(field.type) if not hasattr(field.type, "__metadata__") else ()
            options = tuple((one, ENGLISH.policy_choices[one]) for one in choices if isinstance(one, str))
            label = ENGLISH.policy_fields[f"{name}.{field.name}"]
            entries.append(
                Entry(
                    name=key,
                    label=label,
                    group=ENGLISH.channel_names[prefix[:-1]] if prefix else "",
                    kind="tick" if ticked else "choice" if options else "text",
                    hint=ENGLISH.policy_hints.get(f"{name}.{field.name}", ""),
                    value=form.one(key),
                    given=form.one(key),
                    options=options,
                    required=field.required,
                )
            )
    return entries


def _read(name: str, form: FormFields) -> Any:
    """Return the value of a policy that a form means. Raise FormMistake."""
    entries = _entries(name, form)
    typed = read_entries(entries)
    ticks = {one.name for one in entries if one.kind == "tick"}
    found = {}
    for prefix, kind in _groups(name).items():
        values = {}
        for field in _list_fields(kind):
            text = typed[f"{prefix}{field.name}"]
            if f"{prefix}{field.name}" in ticks:
                values[field.name] = text == "yes"
            elif text:
                values[field.name] = _number(text)
        show_struct_mistake(values, kind, kind.__struct_fields__, prefix)
        if not prefix:
            return read_week(values) if name == "dnd" else values
        if set(values) - {"days"}:  # days alone limit nothing
            found[prefix[:-1]] = values
    return found


def _number(text: str) -> Any:
    """Return the number that a text is; the text itself for any other."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text
