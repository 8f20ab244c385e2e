"""People of an audience, and what a message would look like for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.audience.members import find_members
from tocsin.audience.node import Query
from tocsin.channels import PLATFORMS
from tocsin.content import Addressing, Content, Unrenderable
from tocsin.content.push import LIMITS
from tocsin.content.renderer import compile_content
from tocsin.content.template import ProfileValues
from tocsin.delivery.recipients import load_people
from tocsin.ingest.identity import find_users
from tocsin.providers.contract import Address, Mail, Notice, Push
from tocsin.providers.payload import measure_payload
from tocsin.providers.toast import measure_toast
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

EXAMPLES = 5
GMAIL_BYTES = 102_000  # of HTML; measured by others, Google does not say
KINDS = {"android": "fcm", "ios": "apns", "windows": "wns", "email": "email", "sms": "sms", "webpush": "webpush"}


class Example(msgspec.Struct, frozen=True):
    """Somebody an audience means. identity: one of theirs, "" for none. where: the platforms a message would reach."""

    user: int
    identity: str
    name: str
    where: tuple[str, ...]
    profile: dict[str, Any]


class Preview(msgspec.Struct, frozen=True):
    """A message for one person on one platform. trouble: why there is none. variant: "" where there are none.
    size, limit: bytes of the message, and how many vendor takes; 0 where nobody says."""

    platform: str
    title: str = ""
    body: str = ""
    image: str = ""
    html: str = ""
    trouble: str = ""
    variant: str = ""
    size: int = 0
    limit: int = 0
    vendor: str = ""


async def find_examples(ledger: Ledger, facts: Facts, account: Account, query: Query, now: float) -> list[Example]:
    """Return a few people whom a question means, the first ones."""
    users = await find_members(facts, account, query, now, EXAMPLES)
    return await ledger.read(lambda connection: load_examples(connection, account.id, users))


async def find_example(ledger: Ledger, account: Account, identity: str, kind: str = "identity") -> Example | None:
    """Return the person of an identity, or of another kind of name."""

    def read(connection: Connection) -> Example | None:
        key = (kind, identity)
        found = find_users(connection, account.id, [key])
        examples = load_examples(connection, account.id, list(found.values()))
        return examples[0] if examples else None

    return await ledger.read(read) if identity else None


def load_examples(connection: Connection, account_id: str, users: Sequence[int]) -> list[Example]:
    """Return what is shown of users."""
    people = load_people(connection, account_id, users)
    table = schema.identity
    query = select(table.c.user_id, table.c.value).where(
        table.c.account_id == account_id, table.c.user_id.in_(users), table.c.kind == "identity"
    )
    names: dict[int, str] = {}
    for user, value in connection.execute(query.order_by(table.c.value)):
        names.setdefault(user, value)
    found = []
    for user in users:
        if user in people:
            profile = msgspec.json.decode(people[user].profile)
            where = tuple(platform for platform in PLATFORMS if people[user].addresses.get(platform))
            found.append(Example(user, names.get(user, ""), str(profile.get("Name") or ""), where, profile))
    return found


def preview_contents(
    contents: Sequence[tuple[str, Content]], platforms: Sequence[str], profile: Mapping[str, Any], now: float
) -> list[Preview]:
    """Return the message of each variant for each platform. Blocks for as long as templates may take."""
    return [
        msgspec.structs.replace(preview, variant=variant)
        for variant, content in contents
        for preview in preview_content(content, platforms, profile, now)
    ]


def preview_content(
    content: Content, platforms: Sequence[str], profile: Mapping[str, Any], now: float
) -> list[Preview]:
    """Return the message for each platform. Blocks for as long as templates may take."""
    previews = []
    form = compile_content(content)
    for platform in platforms:
        envelope = Addressing(
            id="00000000-0000-0000-0000-000000000000",  # these are as long as those of a message that is sent
            collapse="tocsin-2147483647",
            campaign="2147483647_20261231",
            push_id="p" * 27,
            address=Address(KINDS[platform], ""),  # type: ignore[arg-type]  # the kinds of the platforms
            expires_at=int(now) + 3600,
            unsubscribe="#",
        )
        try:
            message = form.render(platform, {"Profile": ProfileValues(profile)}, envelope)
        except Exception as error:  # whatever Liquid and its filters raise is one recipient's trouble
            trouble = str(error)[:200] if isinstance(error, Unrenderable) else f"{type(error).__name__}: {error}"[:200]
            previews.append(Preview(platform, trouble=trouble))
            continue
        match message:
            case Push():
                shown = Preview(platform, message.title, message.body, message.image)
            case Mail():
                shown = Preview(platform, message.subject, message.text[:2000], html=message.html)
            case Notice():
                title, body = (str(message.content.get(name, "")) for name in ("title", "body"))
                shown = Preview(platform, title, body)
        size, limit, vendor = _measure(platform, message)
        previews.append(msgspec.structs.replace(shown, size=size, limit=limit, vendor=vendor))
    return previews


def _measure(platform: str, message: Push | Mail | Notice) -> tuple[int, int, str]:
    """Return the bytes of a message, how many are taken, and by whom."""
    match message:
        case Push():
            vendor, limit = LIMITS[platform]  # type: ignore[index]  # a push has one of these platforms
            size = measure_toast(message) if platform == "windows" else measure_payload(platform, message)  # type: ignore[arg-type]
            return size, limit, vendor
        case Mail():
            return len(message.html.encode("utf-8", "replace")), GMAIL_BYTES, "Gmail"
        case Notice():
            return (len(str(message.content.get("body", "")).encode("utf-8", "replace")), 0, "")
