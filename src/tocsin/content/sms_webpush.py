"""The content of a text message or a web push: read, then rendered for one recipient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tocsin.content.content import Addressing, Content, Unrenderable, read_text, require_words
from tocsin.content.template import (
    CompiledTemplate,
    CompiledValue,
    compile_template,
    compile_value,
    fill_value,
    find_templates,
)
from tocsin.errors import Problem
from tocsin.providers.aes128gcm import ROOM
from tocsin.providers.contract import Address, Notice
from tocsin.providers.web_push import DEFAULT_URGENCY, FOUR_WEEKS, URGENCIES, measure_payload

SOURCE_BYTES = 16_384
# A message whose fields beside the content are as long as they ever are, but for the server's own address.
_LONGEST = Notice(
    id="",
    campaign="2147483647_20261231",
    collapse="tocsin-2147483647",
    push_id="p" * 27,
    address=Address("webpush", ""),
    content={},
    expires_at=4_000_000_000,
)
SMS_LETTERS = 1600  # ten parts; most gateways take no more
TEXT_BYTES = 256  # of a message that a block must leave to title and body
BROWSERS = ("chrome", "firefox", "safari")


def read_sms(raw: Mapping[str, Any]) -> Content:
    """Return the `content` of a text message. Raise Problem 400 for a body that is missing or too large."""
    return _check_size(Content(body=read_text(raw, "body"), channel="sms"))


def read_webpush(raw: Mapping[str, Any]) -> Content:
    """Return the `content` of a web push. Raise Problem 400 for a field that is missing, wrong or too large."""
    title, body = read_text(raw, "title"), read_text(raw, "body")
    blocks = raw.get("platform_specific", {})
    if not isinstance(blocks, dict):
        raise Problem("platform_specific must be an object (at $.content.platform_specific)")
    for name, block in blocks.items():
        place = f"$.content.platform_specific.{name[:40]}"
        if name not in BROWSERS:
            raise Problem(f"unknown platform; known are {', '.join(BROWSERS)} (at {place})")
        if not isinstance(block, dict):
            raise Problem(f"must be an object (at {place})")
        _check_delivery(block, place)
    return _check_size(Content(title=title, body=body, platforms=dict(blocks), channel="webpush"))


def _check_delivery(block: Mapping[str, Any], place: str) -> None:
    """Raise Problem for a `ttl` or `urgency` that no push service would take."""
    ttl = str(block.get("ttl", "0"))
    if not (ttl.isascii() and ttl.isdigit() and int(ttl[:10]) <= FOUR_WEEKS):
        raise Problem(f"ttl must be a number of seconds from 0 to {FOUR_WEEKS} (at {place}.ttl)")
    if block.get("urgency", DEFAULT_URGENCY) not in URGENCIES:
        raise Problem(f"urgency must be one of {', '.join(URGENCIES)} (at {place}.urgency)")


def _check_size(content: Content) -> Content:
    size = len(msgspec.json.encode(content))
    if size > SOURCE_BYTES:
        raise Problem(f"content is {size} bytes; at most {SOURCE_BYTES} are taken (at $.content)")
    return content


def check_webpush_room(content: Content, form: NoticeForm) -> None:
    """Raise Problem 400 for a web push that no browser of a block could get: its block leaves title and body fewer than
    TEXT_BYTES, or than they have."""
    needed = min(len(content.title.encode()) + len(content.body.encode()), TEXT_BYTES)
    for browser, block in content.platforms.items():
        size = form.measure(browser)
        if size + needed > ROOM:
            key = max(block, key=lambda one: len(msgspec.json.encode(block[one])))
            raise Problem(
                f"{key} is {len(msgspec.json.encode(block[key]))} bytes; with everything beside title and body the "
                f"message is {size} bytes, and browsers take {ROOM} (at $.content.platform_specific.{browser}.{key})"
            )


class NoticeForm:
    """The content of a text message or web push, its templates compiled. Raises Problem for a wrong template."""

    def __init__(self, content: Content):
        self._channel = content.channel
        self._title = compile_template("title", content.title)
        self._body = compile_template("body", content.body)
        self._blocks: dict[str, dict[str, CompiledValue]] = {
            name: {
                key: compile_value(key, value, f"$.content.platform_specific.{name}.{key}")
                for key, value in block.items()
            }
            for name, block in content.platforms.items()
        }

    def templates(self) -> Iterator[CompiledTemplate]:
        """Return the templates of all browsers."""
        yield self._title
        yield self._body
        for block in self._blocks.values():
            yield from find_templates(block)

    def measure(self, browser: str) -> int:
        """Return the bytes of a browser's message without title and body, and with the block's templates empty."""
        block = {key: fill_value(value, None) for key, value in self._blocks.get(browser, {}).items()}
        return measure_payload(_LONGEST, block)

    def render(self, platform: str, values: Mapping[str, Any], envelope: Addressing) -> Notice:
        """Return the notice for one address. Raise Unrenderable for one that would say nothing, and for a text message
        that is longer than gateways take; a web push is shortened, or refused, by its provider."""
        content: dict[str, Any] = {"body": self._body.fill(values)}
        if self._channel == "webpush":
            content["title"] = self._title.fill(values)
            content["platform_specific"] = {name: fill_value(block, values) for name, block in self._blocks.items()}
        elif len(content["body"]) > SMS_LETTERS:
            raise Unrenderable(f"{len(content['body'])} letters, and gateways take {SMS_LETTERS}")
        require_words(content["body"], content.get("title", ""))
        return Notice(
            id=envelope.id,
            campaign=envelope.campaign,
            collapse=envelope.collapse,
            push_id=envelope.push_id,
            address=envelope.address,
            content=content,
            expires_at=envelope.expires_at,
            track_url=envelope.track_url,
        )
