"""People of an audience, and what a message would look like for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.channels import CHANNELS, DEVICE_KINDS, PLATFORMS, AddressKind
from tocsin.content import Addressing, Content, Unrenderable
from tocsin.content.metering import share_work
from tocsin.content.push import LIMITS
from tocsin.content.renderer import compile_content
from tocsin.content.sms_parts import SmsParts, count_parts
from tocsin.content.template import ProfileValues
from tocsin.dashboard.texts import ENGLISH
from tocsin.delivery.recipients import load_people
from tocsin.ingest.identity import find_users
from tocsin.providers import web_push
from tocsin.providers.aes128gcm import ROOM
from tocsin.providers.contract import Address, Mail, Notice, Push
from tocsin.providers.payload import measure_payload
from tocsin.providers.toast import measure_toast
from tocsin.providers.webhook import WEBPUSH_BYTES
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.rows import among

EXAMPLES = 5
GMAIL_BYTES = 102_000  # of HTML; measured by others, Google does not say
# The kind of address that a platform's message goes to.
KINDS: dict[str, AddressKind] = {
    **{one.platform: one.kind for one in DEVICE_KINDS.values()},
    **{platform: one.kind for one in CHANNELS.values() for platform in one.platforms if one.kind is not None},
}


class Example(msgspec.Struct, frozen=True):
    """Somebody an audience means. identity: one of theirs, "" for none. where: the platforms a message would reach."""

    user: int
    identity: str
    name: str
    where: tuple[str, ...]
    profile: dict[str, Any]


class Preview(msgspec.Struct, frozen=True):
    """A message for one person on one platform. trouble: why there is none. variant: "" where there are none.
    size, limit: bytes of the message, and how many vendor takes; 0 where nobody says. refused: one that is
    larger is not shortened. parts: of a text message. icon, buttons, stays: of a web push."""

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
    parts: SmsParts | None = None
    icon: str = ""
    buttons: tuple[str, ...] = ()
    stays: bool = False
    refused: bool = False


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
    mine = (table.c.account_id == account_id, among(connection, table.c.user_id, users))
    # Ordered here: SQLite would read everybody's identities in their order to save itself the sorting of these few.
    rows = connection.execute(select(table.c.user_id, table.c.kind, table.c.value).where(*mine))
    names: dict[int, str] = {}
    for user, value in sorted((user, value) for user, kind, value in rows if kind == "identity"):
        names.setdefault(user, value)
    found = []
    for user in users:
        if user in people:
            profile = msgspec.json.decode(people[user].profile)
            where = tuple(platform for platform in PLATFORMS if people[user].addresses.get(platform))
            found.append(Example(user, names.get(user, ""), str(profile.get("Name") or ""), where, profile))
    return found


def preview_contents(
    contents: Sequence[tuple[str, Content]],
    platforms: Sequence[str],
    profile: Mapping[str, Any],
    now: float,
    *,
    webhook: bool = False,
) -> list[Preview]:
    """Return the message of each variant for each platform. webhook: web pushes go to a receiver of the account's own.
    Blocks for as long as templates may take."""
    return [
        msgspec.structs.replace(preview, variant=variant)
        for variant, content in contents
        for preview in preview_content(content, platforms, profile, now, webhook=webhook)
    ]


def preview_content(
    content: Content, platforms: Sequence[str], profile: Mapping[str, Any], now: float, *, webhook: bool = False
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
            address=Address(KINDS[platform], ""),
            expires_at=int(now) + 3600,
            unsubscribe="#",
        )
        try:
            with share_work():
                message = form.render(platform, {"Profile": ProfileValues(profile)}, envelope)
        except Exception as error:  # whatever Liquid and its filters raise is one recipient's trouble
            trouble = str(error)[:200] if isinstance(error, Unrenderable) else f"{type(error).__name__}: {error}"[:200]
            previews.append(Preview(platform, trouble=trouble))
            continue
        previews.append(_show(platform, message, webhook=webhook))
    return previews


def _show(platform: str, message: Push | Mail | Notice, *, webhook: bool) -> Preview:
    """Return what is seen of a message, with its size and how much is taken."""
    match message:
        case Push():
            vendor, limit = LIMITS[platform]  # type: ignore[index]  # a push has one of these platforms
            size = measure_toast(message) if platform == "windows" else measure_payload(platform, message)  # type: ignore[arg-type]
            shown = Preview(platform, message.title, message.body, message.image)
        case Mail():
            vendor, limit, size = "Gmail", GMAIL_BYTES, len(message.html.encode("utf-8", "replace"))
            shown = Preview(platform, message.subject, message.text[:2000], html=message.html)
        case Notice() if platform == "webpush":
            block = web_push.pick_block(message, "chrome")
            vendor, limit, size = ENGLISH.platform_names[platform], ROOM, web_push.measure_payload(message, block)
            if webhook:
                limit, size = WEBPUSH_BYTES, len(msgspec.json.encode(message.content))
            shown = msgspec.structs.replace(_show_web_push(message, block), refused=webhook)
        case Notice():
            text = str(message.content.get("body", ""))
            return Preview(platform, body=text, parts=count_parts(text))
    return msgspec.structs.replace(shown, size=size, limit=limit, vendor=vendor)


def _show_web_push(message: Notice, block: Mapping[str, Any]) -> Preview:
    title, body = (str(message.content.get(name, "")) for name in ("title", "body"))
    named = (f"cta_title{number}" for number in range(1, web_push.BUTTONS + 1))
    return Preview(
        "webpush",
        title,
        body,
        str(block.get("image") or ""),
        icon=str(block.get("icon") or ""),
        buttons=tuple(str(block[key]) for key in named if block.get(key)),
        stays=str(block.get("require_interaction", "")).lower() in ("true", "1"),
    )
