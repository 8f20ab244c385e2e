"""What a message says: a template and a profile become one vendor-neutral message. Pure.

Templates are Liquid (`{{ Profile.Name | default: "there" }}`), compiled once a campaign, with limits on loops, output
and depth. In HTML every value from a profile is escaped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import msgspec
from liquid import Environment
from liquid.exceptions import LiquidError, ResourceLimitError, UnknownFilterError
from liquid.template import BoundTemplate

from tocsin.errors import Problem
from tocsin.providers.contract import Address, Mail, Message, Push

PUSH_BYTES = 3600  # of the vendors' 4,096; the rest is for the keys we add
MAIL_BYTES = 1024 * 1024
SUBJECT_BYTES = 900  # a header line may have 998
TAGS = 200
FILTERS = 10
TEXT_LENGTH = 100_000
TAG = re.compile(r"\{[{%].*?[}%]\}", re.DOTALL)
LOOP = re.compile(r"\{%-?\s*(for|tablerow)\s")
KEYS = 100
KEY_BYTES = 120
PLATFORMS = ("android", "ios", "windows")
# The documented answer, with its link, so that callers who compare it keep working.
INVALID_SYNTAX = (
    "Invalid syntax for {field} field. Rectify and try again. "
    "Read more: https://developer.clevertap.com/docs/create-campaign-api"
)
CHANNEL_NEEDED = "Notification channel is required for devices having Android 8.0 or above"
# FCM answers 400 for these in `data`; `aps` belongs to Apple.
RESERVED_KEYS = {"android": ("from", "message_type", "gcm", "google."), "ios": ("aps",), "windows": ()}
KNOWN_KEYS = {
    "android": ("background_image", "default_sound", "deep_link", "large_icon", "wzrk_cid", "wzrk_dl"),
    "ios": ("mutable-content", "deep_link", "sound_file", "category", "badge_count"),
    "windows": ("deep_link",),
}


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked to be said. `platforms` holds the blocks of `platform_specific`, for push; `subject`,
    `sender_name` and `reply_to` are for e-mail, whose `body` is HTML."""

    title: str = ""
    body: str = ""
    subject: str = ""
    sender_name: str = ""
    reply_to: str = ""
    platforms: dict[str, dict[str, Any]] = {}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a message needs beside its content. `campaign` is the `wzrk_id`; `push_id` lets clicks come back."""

    id: str
    collapse: str
    campaign: str
    push_id: str
    address: Address
    expires_at: int


class Unrenderable(Exception):  # noqa: N818 - one recipient's result, not a failure of ours
    """This content cannot be rendered for this profile."""


def read_content(raw: Any, channel: str, *, require_channel: bool = False) -> Content:
    """The `content` of a request. Raises Problem with the documented sentence where there is one."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise Problem("content must be an object (at $.content)")
    if channel == "email":
        return _read_mail(raw)
    title, body = _read_text(raw, "title"), _read_text(raw, "body")
    blocks = raw.get("platform_specific", {})
    if not isinstance(blocks, dict):
        raise Problem("platform_specific must be an object (at $.content.platform_specific)")
    platforms = {name: _read_block(name, block, require_channel) for name, block in blocks.items()}
    content = Content(title=title, body=body, platforms=platforms)
    for field, text in (("title", title), ("body", body)):
        if len(text.encode()) > PUSH_BYTES:
            size = len(text.encode())
            raise Problem(f"{field} is {size} bytes; at most {PUSH_BYTES} fit in a push (at $.content.{field})")
    for name in PLATFORMS:
        size = len(title.encode()) + len(body.encode()) + len(msgspec.json.encode(platforms.get(name, {})))
        if size > PUSH_BYTES:
            raise Problem(f"content is {size} bytes for {name}; at most {PUSH_BYTES} fit in a push (at $.content)")
    Renderer(content)
    return content


def _read_mail(raw: Mapping[str, Any]) -> Content:
    content = Content(
        subject=_read_text(raw, "subject"),
        body=_read_text(raw, "body"),
        sender_name=_read_text(raw, "sender_name", mandatory=False),
        reply_to=_read_text(raw, "reply_to", mandatory=False),
    )
    for key in ("cc", "bcc"):
        if raw.get(key):
            raise Problem(f"{key} is not supported: every recipient gets a mail of their own (at $.content.{key})")
    for key in ("subject", "sender_name", "reply_to"):
        value = getattr(content, key)
        if "\r" in value or "\n" in value:
            raise Problem(f"{key} must be one line (at $.content.{key})")
        if len(value.encode()) > SUBJECT_BYTES:
            raise Problem(f"{key} is longer than {SUBJECT_BYTES} bytes (at $.content.{key})")
    if len(content.body.encode()) > MAIL_BYTES:
        raise Problem(f"body is longer than {MAIL_BYTES} bytes (at $.content.body)")
    Renderer(content)
    return content


def _read_text(raw: Mapping[str, Any], key: str, *, mandatory: bool = True) -> str:
    value = raw.get(key)
    if value is None or value == "":
        if mandatory:
            raise Problem(f"Field {key} is empty (inside content)")
        return ""
    if not isinstance(value, str):
        raise Problem(f"{key} must be a text (at $.content.{key})")
    return value


def _read_block(name: str, block: Any, require_channel: bool) -> dict[str, Any]:
    place = f"$.content.platform_specific.{name[:40]}"
    if name not in PLATFORMS:
        raise Problem(f"unknown platform; known are {', '.join(PLATFORMS)} (at {place})")
    if not isinstance(block, dict) or len(block) > KEYS:
        raise Problem(f"must be an object of at most {KEYS} keys (at {place})")
    for key, value in block.items():
        if not 0 < len(key.encode()) <= KEY_BYTES:
            raise Problem(f"a key is empty or longer than {KEY_BYTES} bytes (at {place})")
        if any(key == word or (word.endswith(".") and key.startswith(word)) for word in RESERVED_KEYS[name]):
            raise Problem(f"{key} is a reserved key (at {place}.{key})")
        if key in KNOWN_KEYS[name] and not isinstance(value, str | int | float | bool):
            raise Problem(f"{key} must be a text, a number or a boolean (at {place}.{key})")
    badge = block.get("badge_count", 0) if name == "ios" else 0
    if not str(badge).isascii() or not str(badge).isdigit():
        raise Problem(f"badge_count must be a whole number (at {place}.badge_count)")
    if name == "android" and require_channel and not block.get("wzrk_cid"):
        raise Problem(CHANNEL_NEEDED, code=9)
    return dict(block)


class Renderer:
    """A content, compiled: `render` fills it for one recipient. Raises Problem for a template that is wrong."""

    def __init__(self, content: Content):
        self._content = content
        self._title = _compile("title", content.title)
        self._body = _compile("body", content.body, html=bool(content.subject))
        self._subject = _compile("subject", content.subject)
        self._blocks = {
            platform: {key: _compile(key, value) if isinstance(value, str) else value for key, value in block.items()}
            for platform, block in content.platforms.items()
        }

    def render(self, platform: str, profile: Mapping[str, Any], envelope: Envelope) -> Message:
        """One message for one address. Raises Unrenderable when the template breaks a limit on this profile."""
        values = {"Profile": _Profile(profile)}
        try:
            if platform == "email":
                return self._render_mail(values, envelope)
            return self._render_push(platform, values, envelope)
        except Exception as error:  # limits, and errors of filters, which python-liquid lets through as they are
            raise Unrenderable(f"{type(error).__name__}: {error}"[:200]) from error

    def _render_mail(self, values: Mapping[str, Any], envelope: Envelope) -> Mail:
        html = _fill(self._body, values)
        return Mail(
            id=envelope.id,
            campaign=envelope.campaign,
            address=envelope.address,
            subject=" ".join(_fill(self._subject, values).split()),  # a value may hold a line break, a header may not
            html=html,
            text=to_text(html),
            sender_name=self._content.sender_name,
            reply_to=self._content.reply_to,
        )

    def _render_push(self, platform: str, values: Mapping[str, Any], envelope: Envelope) -> Push:
        block = {
            key: _fill(value, values) if isinstance(value, str | BoundTemplate) else value
            for key, value in self._blocks.get(platform, {}).items()
        }
        link = str(block.get("deep_link") or block.get("wzrk_dl") or "")
        data = {key: _as_text(value) for key, value in block.items() if key not in KNOWN_KEYS[platform]}
        data |= {"wzrk_id": envelope.campaign, "wzrk_pid": envelope.push_id}
        if link:
            data["wzrk_dl"] = link
        badge = block.get("badge_count")
        return Push(
            id=envelope.id,
            collapse=envelope.collapse,
            address=envelope.address,
            title=_fill(self._title, values),
            body=_fill(self._body, values),
            deep_link=link,
            image=str(block.get("background_image", "")),
            large_icon=str(block.get("large_icon", "")),
            sound=str(block.get("sound_file", "")) or ("default" if _is_yes(block.get("default_sound")) else ""),
            category=str(block.get("category", "")),
            badge=None if badge is None else int(badge),
            mutable_content=_is_yes(block.get("mutable-content")),
            channel=str(block.get("wzrk_cid", "")),
            data=data,
            expires_at=envelope.expires_at,
        )


class _Limited(Environment):
    """Liquid that cannot run away: a template is the caller's, the time it takes is ours."""

    loop_iteration_limit = 1000
    output_stream_limit = 2 * MAIL_BYTES
    context_depth_limit = 20
    block_nesting_limit = 20
    local_namespace_limit = 100_000


def _replace_within_limits(text: Any, old: Any, new: Any = "") -> str:
    """Liquid's `replace`, with an end: seven of them in a row made 486 MiB of ten letters."""
    value, sought, put = str(text), str(old), str(new)
    if len(value) + value.count(sought) * len(put) > TEXT_LENGTH:
        raise ValueError(f"replace makes more than {TEXT_LENGTH} letters")
    return value.replace(sought, put)


def _make_environment(*, autoescape: bool) -> Environment:
    environment = _Limited(autoescape=autoescape)
    environment.filters["replace"] = _replace_within_limits
    return environment


_PLAIN = _make_environment(autoescape=False)
_HTML = _make_environment(autoescape=True)


class _Profile(Mapping[str, Any]):
    """A profile in a template: its keys by their letters, then without regard to case (`Profile.name`)."""

    def __init__(self, profile: Mapping[str, Any]):
        self._profile = profile

    def __getitem__(self, key: str) -> Any:
        if key in self._profile:
            return self._profile[key]
        wanted = str(key).lower()
        for name, value in self._profile.items():
            if name.lower() == wanted:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._profile)

    def __len__(self) -> int:
        return len(self._profile)


def _compile(field: str, text: str, *, html: bool = False) -> BoundTemplate | str:
    """A template, or the text itself when there is nothing to fill in: most campaigns say the same to everybody."""
    if "{{" not in text and "{%" not in text:
        return text
    try:
        _check_template(text)
        template = _parse(text, html)
        _try_out(template)
        return template
    except (LiquidError, ValueError) as error:
        raise Problem(f"{INVALID_SYNTAX.format(field=field)} (at $.content.{field})") from error


def _try_out(template: BoundTemplate) -> None:
    """Renders for nobody: an unknown filter and a loop without end show only then. What else goes wrong may be for
    want of a profile."""
    try:
        template.render(Profile=_Profile({}))
    except (UnknownFilterError, ResourceLimitError):
        raise
    except Exception:  # noqa: S110 - see above
        pass


def _check_template(text: str) -> None:
    """Refuses what costs more than a message is worth. Measured: python-liquid needs 1.5 s to refuse 3,600 bytes of
    unclosed «{{», and a range outside a loop is made as long as it is named. Raises ValueError."""
    if text.count("{{") != text.count("}}") or text.count("{%") != text.count("%}"):
        raise ValueError("a tag is not closed")
    if text.count("{{") + text.count("{%") > TAGS:
        raise ValueError(f"more than {TAGS} tags")
    for tag in TAG.findall(text):
        if ".." in tag and not LOOP.match(tag):
            raise ValueError("a range is only for loops")
        if tag.count("|") > FILTERS:
            raise ValueError(f"more than {FILTERS} filters in a row")


@functools.lru_cache(maxsize=512)
def _parse(text: str, html: bool) -> BoundTemplate:
    return (_HTML if html else _PLAIN).from_string(text)


def _fill(template: BoundTemplate | str, values: Mapping[str, Any]) -> str:
    return template if isinstance(template, str) else template.render(**values)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _is_yes(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true") or value == 1


class _TextOf(HTMLParser):
    """The words of an HTML mail, a line a block."""

    BLOCKS = frozenset(("p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol", "hr"))
    SILENT = frozenset(("style", "script", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in self.SILENT
        if tag in self.BLOCKS:
            self.words.append("\n")
        if tag == "a" and (link := dict(attrs).get("href")):
            self.words.append(f"{link} ")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in self.SILENT and self._silent > 0
        if tag in self.BLOCKS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@functools.lru_cache(maxsize=8)  # a body without templates is the same for everybody
def to_text(html: str) -> str:
    """The plain-text part of a mail, made from its HTML."""
    parser = _TextOf()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.words).splitlines())
    return "\n".join(line for line in lines if line)
