"""What a message is made of, before it says anything to anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.content.tracked_html import MailLinks
from tocsin.errors import Problem
from tocsin.providers.contract import Address


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked to be said. `platforms` holds the blocks of `platform_specific`, for push; `subject`,
    `sender_name` and `reply_to` are for e-mail, whose `body` is HTML. `channel` is «sms» or «webpush», else ""."""

    title: str = ""
    body: str = ""
    subject: str = ""
    sender_name: str = ""
    reply_to: str = ""
    platforms: dict[str, dict[str, Any]] = {}
    channel: str = ""


class Addressing(msgspec.Struct, frozen=True, kw_only=True):
    """What a message needs beside its content. `campaign` is the `wzrk_id`; `push_id` lets clicks come back;
    `unsubscribe` is the URL that takes a mailbox off the list, and `track_url` where browsers report views and clicks,
    both "" when this server has no public address; `reports`: the account's apps tell of views. `tracking` makes a
    mail's links, None when they are not followed. `collapsible` as in `Push`."""

    id: str
    collapse: str
    campaign: str
    push_id: str
    address: Address
    expires_at: int
    account: str = ""
    unsubscribe: str = ""
    reports: bool = False
    track_url: str = ""
    tracking: MailLinks | None = None
    collapsible: bool = True


class Unrenderable(Exception):  # noqa: N818 - one recipient's result, not a failure of ours
    """This content cannot be rendered for this profile."""


def require_words(*texts: str) -> None:
    """Raise Unrenderable for texts that are all empty for this profile. No vendor refuses them: an iPhone shows
    nothing and it counts as sent, and a text message of nothing costs what one costs."""
    if not any(text and not text.isspace() for text in texts):
        raise Unrenderable("the text is empty for this profile")


def read_text(raw: Mapping[str, Any], key: str, *, mandatory: bool = True) -> str:
    value = raw.get(key)
    if value is None or value == "":
        if mandatory:
            raise Problem(f"Field {key} is empty (inside content)")
        return ""
    if not isinstance(value, str):
        raise Problem(f"{key} must be a text (at $.content.{key})")
    return value
