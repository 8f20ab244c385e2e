"""A new campaign: the form, what it would do while it is filled in, and its sending through the API's own functions."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

import msgspec
from markupsafe import escape
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.segments import keep_segment
from tocsin.api.targets import make_campaign
from tocsin.audience.values import find_values
from tocsin.authenticator.audit import note
from tocsin.campaign.send import accept, read_asked
from tocsin.campaign.spec import LATEST_ID, VARIANTS
from tocsin.channels import CHANNELS
from tocsin.dashboard import draft, drafts
from tocsin.dashboard.campaigns import LIST, server_of
from tocsin.dashboard.connection import while_connected
from tocsin.dashboard.draft import Mistake, make_request, place_mistake
from tocsin.dashboard.forecasts import foresee_draft
from tocsin.dashboard.message import add_variant, count_variants, drop_variant, list_hidden
from tocsin.dashboard.outlook import look_ahead, preview_mail
from tocsin.dashboard.page import Frame, Visitor, redirect, render, show_mail
from tocsin.dashboard.queries import read_spec_of
from tocsin.dashboard.question import BOXES, read_rows
from tocsin.dashboard.sample import find_example
from tocsin.dashboard.suggestions import Suggestions, find_suggestions
from tocsin.dashboard.texts import ENGLISH
from tocsin.dashboard.visitor import FormFields, read_signed_form, require_member
from tocsin.errors import Problem
from tocsin.idempotency import read_key

PATH = "/dashboard/new"
TEST_GROUP = "Test"
NONCE = re.compile(r"[0-9a-f]{16}")


async def show_form(context: Context, request: Request) -> Response:
    """Show an empty form, one filled with the campaign of `?from=`, the segment of `?segment=` or the draft of
    `?draft=`."""
    visitor, _ = await require_member(context, request, "marketer")
    form = FormFields(draft.blank_draft())
    copied = request.query_params.get("from", "")
    if copied.isascii() and copied.isdigit() and len(copied) < 11 and int(copied) <= LATEST_ID:
        spec = await read_spec_of(context.ledger, visitor.account.id, int(copied))
        if spec is None:
            raise Problem(ENGLISH.no_such_campaign, code=404, status=404)
        form = FormFields(draft.draft_of(spec, ENGLISH.copy_of.format(name=spec.name)))
    if asked := request.query_params.get("draft", ""):
        number, account_id = _read_draft_id(asked), visitor.account.id
        kept = await context.ledger.read(lambda connection: drafts.read_draft(connection, account_id, number))
        if kept is None:
            raise Problem(ENGLISH.no_such_draft, code=404, status=404)
        form = FormFields(kept | {"draft": [str(number)]})
    if segment := request.query_params.get("segment", ""):
        draft.add_row(form, "all", "segment", segment)
    form["nonce"] = [secrets.token_hex(8)]
    if not form.one("test_identity") and (
        me := await find_example(context.ledger, visitor.account, visitor.who, "Email")
    ):
        form["test_identity"] = [me.identity]
    return await _show(context, visitor, form)


async def take_form(context: Context, request: Request) -> Response:
    """Do what a button of the form says: change its rows, save a segment, send a test, look it over, or send it."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    do = form.one("do")
    if do.startswith("add-") and do[4:] in BOXES:
        draft.add_row(form, do[4:])
    elif do == "add-variant":
        add_variant(form)
    elif do.startswith("drop-variant-") and do[13:].isascii() and do[13:].isdigit():
        drop_variant(form, int(do[13:15]))
    elif do.startswith("drop-"):
        draft.drop_row(form, do[5:])
    elif do == "segment":
        return await _save_segment(context, visitor, form)
    elif do == "keep":
        return await _keep_draft(context, visitor, form)
    elif do == "test":
        return await _send_test(context, visitor, form)
    elif do in ("review", "foresee"):
        return await _review(context, request, visitor, form, foresee=do == "foresee")
    elif do == "send":
        return await _send(context, visitor, form)
    return await _show(context, visitor, form)


async def check(context: Context, request: Request) -> Response:
    """Show what the draft would do now, as a part of its page."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    outlook = await while_connected(request, look_ahead(context, request, visitor, form))
    frame, server = Frame(visitor, context.clock(), LIST), server_of(request)
    return render("new_check.html", frame=frame, outlook=outlook, form=form, server=server)


async def show_mail_preview(context: Context, request: Request) -> Response:
    """Show the draft's mail for one person, for a frame that nothing in it can leave."""
    visitor, _ = await require_member(context, request, "marketer")
    form = await read_signed_form(context, request, visitor)
    try:
        preview = await preview_mail(context, visitor.account, form, context.clock())
    except Problem as problem:
        return show_mail(f"<p>{escape(problem.error)}</p>")
    return show_mail(preview.html or f"<p>{escape(preview.trouble)}</p>")


async def suggest(context: Context, request: Request) -> Response:
    """Suggest values of a property, from what the data hold."""
    visitor, _ = await require_member(context, request, "marketer")
    asked = request.query_params
    number = next((key.split("-")[1] for key in asked if key.startswith("row-")), "0")
    kind, name, prop = (asked.get(f"row-{number}-{field}", "").replace("\0", "") for field in ("kind", "name", "prop"))
    context.reads.take(visitor.account.id, request.scope[HELD])
    values = await find_values(context.facts, visitor.account, kind, name, prop)
    return render("options.html", frame=Frame(visitor, context.clock()), values=values)


async def _show(
    context: Context,
    visitor: Visitor,
    form: FormFields,
    mistake: Mistake | None = None,
    said: str = "",
) -> Response:
    found = await find_suggestions(context.ledger, visitor.account.id)
    frame = Frame(visitor, context.clock(), LIST)
    return render("new.html", 400 if mistake else 200, **_values(frame, form, found, mistake, said))


def _values(frame: Frame, form: FormFields, found: Suggestions, mistake: Mistake | None, said: str) -> dict[str, Any]:
    rows = read_rows(form.flat())
    boxes = {box: [row for row in rows if row.box == box] for box in BOXES}
    values = {"form": form, "boxes": boxes, "suggestions": found, "mistake": mistake, "said": said}
    values |= {"hidden": list_hidden(form, form.one("channel"))}
    values |= {"do": form.one("do"), "variants": count_variants(form), "most_variants": VARIANTS}
    channels = [(name, ENGLISH.channel_names.get(name, name)) for name in CHANNELS]
    return {"frame": frame, "channels": channels, **values}


async def _review(context: Context, request: Request, visitor: Visitor, form: FormFields, *, foresee: bool) -> Response:
    """Show what is about to be sent. foresee: with the forecast, which else follows by itself."""
    outlook = await look_ahead(context, request, visitor, form)
    if outlook.mistake is not None:
        return await _show(context, visitor, form, outlook.mistake)
    prospect = await foresee_draft(context, visitor, form) if foresee else None
    values: dict[str, Any] = {"form": form, "outlook": outlook, "prospect": prospect}
    frame, server = Frame(visitor, context.clock(), LIST), server_of(request)
    return render("review.html", frame=frame, server=server, **values)


async def _send(context: Context, visitor: Visitor, form: FormFields) -> Response:
    """Make the campaign, as the API would; the same form twice is one campaign."""
    account, now, places = visitor.account, context.clock(), {}
    try:
        made = make_request(form)
        places = made.places
        raw = msgspec.json.encode(made.body)
        nonce = form.one("nonce")
        name = f"form-{nonce}-{hashlib.blake2b(raw, digest_size=8).hexdigest()}" if NONCE.fullmatch(nonce) else None
        key = read_key(account.id, name, PATH, raw)
        async with context.creates.admit(account.id, now):
            text, new = await make_campaign(context, account, made.body, key, now)
    except Problem as problem:
        return await _show(context, visitor, form, place_mistake(problem, places))
    campaign_id = msgspec.json.decode(text)["id"]
    if new:
        detail = f"{campaign_id} {made.body['name']}"

        def finish(connection: Connection) -> None:
            note(connection, account.id, visitor.who, "campaign made", detail, now)
            drafts.delete_draft(connection, account.id, _read_draft_id(form.one("draft")))

        await context.ledger.write(finish)
    return redirect(f"/dashboard/campaigns/{campaign_id}")


async def _send_test(context: Context, visitor: Visitor, form: FormFields) -> Response:
    """Send the draft's message to one person now, as `/1/send` would."""
    account, now, identity, places = visitor.account, context.clock(), form.one("test_identity"), {}
    try:
        if await find_example(context.ledger, account, identity) is None:
            raise Problem(ENGLISH.test_nobody.format(identity=identity[:80]) + " (at $.test)")
        made = make_request(form)
        body, places = made.body, made.places
        channel = body["target_mode"] if body["target_mode"] in CHANNELS else "push"
        for one in body.get("variants") or [body]:
            asked = read_asked({"to": {"Identity": [identity]}, "content": one["content"], "tag_group": TEST_GROUP})
            await accept(context.send_queue, account, channel, asked, now, context.settings, context.compile_pool)
        await context.ledger.write(
            lambda connection: note(connection, account.id, visitor.who, "test sent", identity, now)
        )
    except Problem as problem:
        return await _show(context, visitor, form, place_mistake(problem, places))
    return await _show(context, visitor, form, said=ENGLISH.test_queued.format(identity=identity, group=TEST_GROUP))


async def delete_draft(context: Context, request: Request) -> Response:
    """Delete a draft."""
    visitor, _ = await require_member(context, request, "marketer")
    number = _read_draft_id((await read_signed_form(context, request, visitor)).one("draft"))
    await context.ledger.write(lambda connection: drafts.delete_draft(connection, visitor.account.id, number))
    return redirect("/dashboard/?state=draft")


async def _keep_draft(context: Context, visitor: Visitor, form: FormFields) -> Response:
    """Keep the form as it is, finished or not."""
    now, account_id, before = context.clock(), visitor.account.id, _read_draft_id(form.one("draft"))
    try:
        kept = await context.ledger.write(
            lambda connection: drafts.keep_draft(connection, account_id, before, form, visitor.who, now)
        )
    except Problem as problem:
        return await _show(context, visitor, form, place_mistake(problem))
    form["draft"] = [str(kept)]
    return await _show(context, visitor, form, said=ENGLISH.draft_kept)


def _read_draft_id(text: str) -> int:
    """Return the id of a draft; 0, which none has, for what is no id."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


async def _save_segment(context: Context, visitor: Visitor, form: FormFields) -> Response:
    """Keep the draft's audience by a name."""
    places = {}
    try:
        made = make_request(form)
        places = made.places
        name = form.one("segment_name")
        if not name:
            raise Problem(ENGLISH.segment_needs_name + " (at $.segment_name)")
        await keep_segment(context, visitor.account, {"name": name, "where": made.body["where"]})
    except Problem as problem:
        return await _show(context, visitor, form, place_mistake(problem, places))
    now, account_id = context.clock(), visitor.account.id
    await context.ledger.write(lambda connection: note(connection, account_id, visitor.who, "segment saved", name, now))
    return await _show(context, visitor, form, said=ENGLISH.segment_saved.format(name=name))
