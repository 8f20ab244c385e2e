"""What a draft would do now: how many messages, to whom for example, what they see, and what is still missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, select
from starlette.requests import Request

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.targets import read_campaign, survey
from tocsin.audience.node import Everybody
from tocsin.campaign.spec import DEVICES, Spec
from tocsin.channels import CHANNELS
from tocsin.dashboard.draft import Mistake, make_request, place_mistake
from tocsin.dashboard.message import NEEDED
from tocsin.dashboard.page import Visitor
from tocsin.dashboard.sample import EXAMPLES, Example, Preview, find_example, load_examples, preview_contents
from tocsin.dashboard.visitor import FormFields
from tocsin.errors import Problem
from tocsin.providers import BY_NAME
from tocsin.store import schema

# What stands for the words of an unfinished campaign, so that its audience can be counted.
FILLING = {"title": "-", "body": "-", "subject": "-"}


class DraftReading(msgspec.Struct, frozen=True):
    """A draft as the API reads it. mistake: what keeps it from being sent. spec: the campaign, what is missing of it
    filled in; None while its audience is not clear. worded: its words are the draft's own."""

    body: dict[str, Any]
    spec: Spec | None = None
    mistake: Mistake | None = None
    worded: bool = True


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a draft would do now. mistake: what keeps it from being sent. counts: messages by platform, None while the
    audience cannot be counted. without: platforms for which the account has no provider. seen_by: whose previews they
    are."""

    mistake: Mistake | None
    spec: Spec | None = None
    counts: dict[str, int] | None = None
    examples: list[Example] = []
    previews: list[Preview] = []
    without: list[str] = []
    body: dict[str, Any] = {}
    seen_by: str = ""

    @property
    def total(self) -> int:
        return sum((self.counts or {}).values())

    @property
    def everybody(self) -> bool:
        return self.spec is not None and isinstance(self.spec.where, Everybody)


async def read_draft(context: Context, account: Account, form: FormFields, now: float) -> DraftReading:
    """Return a draft as the API reads it; unfinished, with what is missing filled in, and where that is not enough,
    its audience alone."""
    body, places = {}, {}
    try:
        made = make_request(form)
        body, places = made.body, made.places
        return DraftReading(body, await read_campaign(context, account, body, now))
    except Problem as problem:
        mistake = place_mistake(problem, places)
    for filled, worded in _fill(form, body) if body else ():
        try:
            return DraftReading(body, await read_campaign(context, account, filled, now), mistake, worded)
        except Problem:
            continue
    return DraftReading(body, None, mistake)


async def look_ahead(context: Context, request: Request, visitor: Visitor, form: FormFields) -> Outlook:
    """Return what a draft would do now."""
    account, now = visitor.account, context.clock()
    context.reads.take(account.id, request.scope[HELD])
    found = await read_draft(context, account, form, now)
    spec, mistake = found.spec, found.mistake
    if spec is None:
        return Outlook(mistake=mistake, body=found.body)
    (counts, some), chosen = await asyncio.gather(
        survey(context, account, spec, now, EXAMPLES), find_example(context.ledger, account, form.one("person"))
    )

    def read(connection: Connection) -> tuple[list[Example], list[str]]:
        return load_examples(connection, account.id, some), _list_providers(connection, account.id)

    examples, names = await context.ledger.read(read)
    person = chosen or (examples[0] if examples else None)
    previews: list[Preview] = []
    if found.worded:
        work = partial(preview_contents, spec.contents, spec.platforms, person.profile if person else {}, now)
        previews = await context.compile_pool.run(account.id, partial(work, webhook="webpush" in names))
    reached = {BY_NAME[name].platform for name in names if name in BY_NAME}
    return Outlook(
        mistake=mistake,
        spec=spec,
        counts=counts,
        examples=examples,
        previews=previews,
        without=[platform for platform in spec.platforms if platform not in reached],
        body=found.body,
        seen_by=(person.name or person.identity) if person else "",
    )


async def preview_mail(context: Context, account: Account, form: FormFields, now: float) -> Preview:
    """Return the draft's mail for one person: of the variant whose button was pressed. Raise Problem for a draft that
    cannot be read."""
    found = await read_draft(context, account, form, now)
    if found.spec is None:
        raise Problem(found.mistake.sentence if found.mistake else "")
    spec, example = found.spec, await find_example(context.ledger, account, form.one("person"))
    number = next((number for number in range(len(spec.contents)) if form.one("do") == str(number)), 0)
    profile = example.profile if example else {}
    work = partial(preview_contents, spec.contents[number:][:1], spec.platforms, profile, now)
    return (await context.compile_pool.run(account.id, work))[0]


def _fill(form: FormFields, body: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the request of a draft with more and more of it filled in, and whether its words are its own: at first what
    is empty, in the end all but its audience."""
    channel = body["target_mode"] if body["target_mode"] in CHANNELS else "push"
    audience = {"name": "-", "target_mode": channel, "where": body["where"]}
    audience |= {"devices": body.get("devices") or [*DEVICES]} if channel == "push" else {}
    words = {name: body[name] for name in ("content", "variants") if name in body}
    rest = {name: value for name, value in body.items() if name not in ("content", "variants", "devices")}
    written = all(form.one(name) for name in NEEDED.get(channel, NEEDED["push"]))
    if written:
        yield rest | audience | words, True
        yield rest | audience | words | {"when": "now"}, True
    yield rest | audience | {"content": FILLING}, False
    yield rest | audience | {"content": FILLING, "when": "now"}, False
    yield audience | {"content": FILLING, "when": "now"}, False


def _list_providers(connection: Connection, account_id: str) -> list[str]:
    table = schema.provider
    return list(connection.scalars(select(table.c.name).where(table.c.account_id == account_id)))
