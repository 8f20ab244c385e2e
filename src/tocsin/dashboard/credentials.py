"""Credentials of the vendors as forms: read and checked as `tocsin provider set` does, asked of the vendor before they
replace what works, and never shown again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.authenticator.audit import note
from tocsin.dashboard.form_entry import Entry, FormMistake, read_entries, show_struct_mistake
from tocsin.dashboard.page import Frame, Visitor, render
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import FormFields, read_signed_form, require_member
from tocsin.errors import Misconfigured, Problem
from tocsin.providers import BY_NAME
from tocsin.providers.credential import find_settings
from tocsin.providers.credential_check import CredentialCheck, check_credential
from tocsin.providers.encryption import NO_SETTINGS, read_keys
from tocsin.providers.http.transfer import is_loopback
from tocsin.providers.keyring import keep_providers, read_given
from tocsin.providers.mail.lookup import find_addresses
from tocsin.providers.public_address import is_allowed
from tocsin.providers.vapid_key import make_key
from tocsin.providers.webhook import make_secret
from tocsin.settings import HIDDEN, LOOPBACK

# What the form of a provider asks for, in order. The rest keeps what `tocsin provider set` gave it.
FIELDS = {
    "fcm": ("service_account", "style", "endpoint"),
    "apns": ("key", "key_id", "team_id", "topic", "endpoint"),
    "wns": ("client_id", "client_secret", "tenant", "endpoint"),
    "smtp": ("host", "port", "tls", "username", "password", "sender", "bounce"),
    "vapid": ("subject", "endpoint"),
    "sms": ("url", "secret"),
    "webpush": ("url", "secret"),
}
WEBHOOKS = ("sms", "webpush")
FILES = ("service_account", "key")
SECRETS = (*FILES, "client_secret", "password", "secret")
# Whoever is an admin of an account may not make this server call whatever they like: these, and what is stored.
ENDPOINTS = {
    "fcm": ("https://fcm.googleapis.com",),
    "apns": ("https://api.push.apple.com", "https://api.sandbox.push.apple.com"),
    "wns": ("",),
    "vapid": ("",),
}
GOOGLE_HOSTS = ("oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com")
SMTP_PORTS = (25, 465, 587, 2525)
RESOLVE_SECONDS = 5.0


class _TokenUri(msgspec.Struct):
    token_uri: str = f"https://{GOOGLE_HOSTS[0]}/token"


async def show_provider(context: Context, request: Request) -> Response:
    """Show the form of one provider, without its secrets."""
    visitor, _ = await require_member(context, request, "admin")
    name = _read_name(request)
    stored = await _find(context, visitor, name)
    return _show(context, visitor, name, stored, _entries(name, stored, FormFields(_values(name, stored))))


async def take_provider(context: Context, request: Request) -> Response:
    """Keep the credential of a form, or ask the vendor about the one that is stored."""
    visitor, _ = await require_member(context, request, "admin")
    name = _read_name(request)
    form = await read_signed_form(context, request, visitor)
    stored = await _find(context, visitor, name)
    try:
        if form.one("do") == "renew" and name in WEBHOOKS and stored:
            made = make_secret()
            settings = await asyncio.to_thread(read_given, name, stored | {"secret": made})
            return await _keep(context, visitor, name, settings, made=made, said="provider secret renewed")
        if form.one("do") == "check":
            form = FormFields(_values(name, stored))
            found = await _ask(context, visitor, name, msgspec.json.encode(stored).decode()) if stored else None
            return _show(context, visitor, name, stored, _entries(name, stored, form), found=found)
        return await _save(context, visitor, name, stored, form)
    except FormMistake as mistake:
        return _show(context, visitor, name, stored, _entries(name, stored, form), mistake=mistake)


async def _save(
    context: Context, visitor: Visitor, name: str, stored: dict[str, Any] | None, form: FormFields
) -> Response:
    entries = _entries(name, stored, form)
    given = _merge(name, stored or {}, read_entries(entries))
    show_struct_mistake(given, BY_NAME[name].Settings, FIELDS[name])
    try:
        settings = await asyncio.to_thread(read_given, name, given)
    except Misconfigured as error:
        raise FormMistake.naming(str(error), FIELDS[name]) from None
    other = {"webpush": "vapid", "vapid": "webpush"}.get(name)
    if other and not form.one("unasked") and await _find(context, visitor, other):
        raise FormMistake("", ENGLISH.loses_browsers if other == "vapid" else ENGLISH.loses_receiver, refused=True)
    if name == "smtp" and _place(given) != _place(stored or {}):
        await check_relay(given["host"], given["port"])
    if name in WEBHOOKS and _place(given) != _place(stored or {}):
        await _check_host("url", urlsplit(given["url"]).hostname or "")
    found = None if form.one("unasked") else await _ask(context, visitor, name, settings)
    if found is not None and found.verdict == "refused":
        secret = next(field for field in FIELDS[name] if field in SECRETS)
        raise FormMistake(secret, ENGLISH.not_saved.format(sentence=found.sentence, code=found.code), refused=True)
    is_made = name in WEBHOOKS and not form.one("secret") and given["secret"] != (stored or {}).get("secret")
    return await _keep(context, visitor, name, settings, made=given["secret"] if is_made else "", found=found)


async def _keep(
    context: Context,
    visitor: Visitor,
    name: str,
    settings: str,
    *,
    made: str = "",
    found: CredentialCheck | None = None,
    said: str = "provider set",
) -> Response:
    """Keep the settings of a provider, which are JSON, and show its form. made: a secret that is shown this once. said:
    in the audit log, with the host that is sent to."""
    kept = msgspec.json.decode(settings)
    host = kept.get("host") or urlsplit(str(kept.get("url", ""))).hostname
    now, keys = context.clock(), read_keys(context.settings.secret_key)

    def write(connection: Connection) -> list[str]:
        replaced = keep_providers(connection, keys, visitor.account.id, {name: settings}, now)
        detail = ", ".join([f"{name} at {host}" if host else name, *replaced])
        note(connection, visitor.account.id, visitor.who, said, detail, now)
        return replaced

    replaced = await context.ledger.write(write)
    done = ENGLISH.provider_saved + (ENGLISH.provider_replaced.format(names=", ".join(replaced)) if replaced else "")
    shown = _entries(name, kept, FormFields(_values(name, kept)))
    return _show(context, visitor, name, kept, shown, said=done, found=found, made=made)


async def _ask(context: Context, visitor: Visitor, name: str, settings: str) -> CredentialCheck:
    """Ask the vendor, as often as an account may, and write it down."""
    account_id, now = visitor.account.id, context.clock()
    try:
        async with context.checks.admit(account_id, now):
            found = await check_credential(name, settings, now)
    except (Misconfigured, Problem) as error:
        raise FormMistake("", str(error)) from None
    detail = f"{name}: {found.verdict} {found.code}".strip()
    await context.ledger.write(lambda one: note(one, account_id, visitor.who, "provider checked", detail, now))
    return found


def _show(
    context: Context,
    visitor: Visitor,
    name: str,
    stored: dict[str, Any] | None,
    entries: list[Entry],
    *,
    mistake: FormMistake | None = None,
    said: str = "",
    found: CredentialCheck | None = None,
    made: str = "",
) -> Response:
    """made: a secret, which is shown this once."""
    frame = Frame(visitor, context.clock(), "settings")
    values: dict[str, Any] = {"provider": name, "entries": entries, "mistake": mistake, "said": said, "found": found}
    values |= {"made": made, "receiver": name in WEBHOOKS}
    public_key = str((stored or {}).get("public_key", "")).partition(" ")[0]
    status = 422 if mistake else 200
    return render("provider.html", status, frame=frame, stored=bool(stored), public_key=public_key, **values)


def _read_name(request: Request) -> str:
    name = str(request.path_params["name"])
    if name not in FIELDS:
        raise Problem(ENGLISH.no_such_provider, code=404, status=404)
    return name


async def _find(context: Context, visitor: Visitor, name: str) -> dict[str, Any] | None:
    """Return what is stored of a provider. Raise Problem where this server has no key for it."""
    find = partial(find_settings, account_id=visitor.account.id, name=name, secret_key=context.settings.secret_key)
    stored = await context.ledger.read(find)
    if stored == NO_SETTINGS:
        raise Problem(ENGLISH.no_secret_key, code=409, status=409)
    return None if stored is None else msgspec.json.decode(stored, type=dict[str, Any])


def _values(name: str, stored: dict[str, Any] | None) -> dict[str, list[str]]:
    """Return what a form begins with: what is stored, but for secrets, and for addresses of the sandbox."""
    shown = {one: str(value) for one, value in (stored or {}).items() if one in FIELDS[name] and one not in SECRETS}
    if "url" in shown:
        shown["url"] = _hide_query(shown["url"])
    if is_loopback(shown.get("endpoint", "")):
        del shown["endpoint"]
    return {one: [value] for one, value in shown.items()}


def _entries(name: str, stored: dict[str, Any] | None, form: FormFields) -> list[Entry]:
    """Return the fields of a provider's form, filled in."""
    entries = []
    for field in msgspec.structs.fields(BY_NAME[name].Settings):
        if field.name not in FIELDS[name]:
            continue
        secret, options = field.name in SECRETS, _options(name, field, stored)
        if field.name == "endpoint" and len(options) == 1:
            continue
        default = "" if field.required else str(field.default)
        kept = secret and stored is not None and bool(stored.get(field.name))
        entries.append(
            Entry(
                name=field.name,
                label=ENGLISH.provider_fields[field.name],
                kind="file" if field.name in FILES else "secret" if secret else "choice" if options else "text",
                hint=ENGLISH.provider_hints.get(f"{name}.{field.name}", ""),
                value="" if secret else form.one(field.name, default),
                given=form.one(field.name),
                options=options,
                required=field.required and not kept and not (secret and name in WEBHOOKS),
                kept=kept,
            )
        )
    return sorted(entries, key=lambda entry: FIELDS[name].index(entry.name))


def _options(name: str, field: msgspec.structs.FieldInfo, stored: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    if field.name == "endpoint":
        urls = dict.fromkeys((*ENDPOINTS[name], str((stored or {}).get("endpoint", ""))))
        urls = dict.fromkeys(url for url in urls if url or "" in ENDPOINTS[name])
        return tuple((url, ENGLISH.endpoints.get(url, url)) for url in urls)
    bare = get_args(field.type)[0] if get_args(field.type) else field.type
    return tuple((value, ENGLISH.provider_choices.get(value, value)) for value in get_args(bare))


def _hide_query(url: str) -> str:
    """Return a URL without the values of its query: a gateway's token may be there."""
    start, mark, _ = url.partition("?")
    return f"{start}?{HIDDEN}" if mark else url


def _place(settings: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(settings.get(one) for one in ("host", "port", "endpoint", "url"))


def _restore_url(given: dict[str, Any], before: str) -> bool:
    """Put back what was hidden of a URL. Return whether another one replaces the sandbox's, which tells its secret to
    whoever asks."""
    if "url" in given and given["url"] == _hide_query(before):
        given["url"] = before
    if HIDDEN in str(given.get("url", "")):
        raise FormMistake("url", ENGLISH.type_url_again)
    return urlsplit(before).hostname in LOOPBACK and given.get("url") != before


def _merge(name: str, stored: dict[str, Any], typed: dict[str, str]) -> dict[str, Any]:
    """Return the settings that a form means. A stored secret stays where none is typed; but a password never goes to
    another relay, and the sandbox's secret signs for no other receiver."""
    given: dict[str, Any] = {one: value for one, value in stored.items() if one not in FIELDS[name]}
    given |= {one: value for one, value in typed.items() if value}
    sandbox = _restore_url(given, str(stored.get("url", "")))
    if "port" in given and str(given["port"]).isdecimal():
        given["port"] = int(given["port"])
    if "endpoint" not in typed and name in ENDPOINTS:
        given["endpoint"] = ENDPOINTS[name][0]
    for one in (one for one in SECRETS if one in FIELDS[name] and one not in given and stored.get(one) and not sandbox):
        if name == "smtp" and given.get("username"):
            if _place(given | {"endpoint": None}) != _place(stored):
                raise FormMistake(one, ENGLISH.type_again)
            given[one] = stored[one]
        elif name != "smtp":
            given[one] = stored[one]
    if name == "vapid":
        given.setdefault("key", make_key())
    if name in WEBHOOKS:
        given.setdefault("secret", make_secret())
    if name in ("smtp", *WEBHOOKS) and _place(given) != _place(stored):
        given["network"] = "public"
    if stored and _place(given) != _place(stored):
        given = {one: value for one, value in given.items() if one not in ("ca", "token_endpoint")}
    if name == "fcm" and given.get("endpoint") == ENDPOINTS["fcm"][0]:
        _check_token_uri(given.get("service_account", ""))
    return given


def _check_token_uri(account: str) -> None:
    try:
        uri = msgspec.json.decode(account, type=_TokenUri).token_uri
    except msgspec.DecodeError:
        return  # whoever reads the rest of it says so
    try:
        host = urlsplit(uri).hostname
    except ValueError:  # such as a bracket that is not closed
        host = None
    if host not in GOOGLE_HOSTS:
        raise FormMistake("service_account", ENGLISH.token_uri_elsewhere)


async def check_relay(host: str, port: int) -> None:
    """Raise FormMistake for a relay that only the operator may name: on a port or in a network of their own."""
    if port not in SMTP_PORTS:
        raise FormMistake("port", ENGLISH.odd_port.format(ports=", ".join(map(str, SMTP_PORTS))))
    await _check_host("host", host)


async def _check_host(field: str, host: str) -> None:
    """Raise FormMistake for a host of this machine or of the operator's network."""
    try:
        found = await asyncio.wait_for(find_addresses(host.strip("[]"), public=False), RESOLVE_SECONDS)
    except (OSError, UnicodeError, TimeoutError):
        raise FormMistake(field, ENGLISH.no_such_host) from None
    if not all(is_allowed(one, ()) for one in found):
        raise FormMistake(field, ENGLISH.inner_host)
