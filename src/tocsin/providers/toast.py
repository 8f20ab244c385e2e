"""A push as a Windows toast (schema http://schemas.microsoft.com/notifications/2012/toast.xsd)."""

from __future__ import annotations

import functools
import hashlib
import re
from urllib.parse import quote, quote_plus

from tocsin.providers.contract import Push
from tocsin.providers.payload import fit_or_refuse

TOAST_BYTES = 5000  # Microsoft, «Push notification service request and response headers»
TAG = 16  # characters of X-WNS-Tag at most, letters and digits only

_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML 1.0 cannot hold, and CR
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
_BETWEEN = "</text><text>"


def escape(value: str) -> str:
    """Return `value` for XML text or an attribute in double quotes; what XML 1.0 cannot hold is left out."""
    return _escape_clean(_clean(value))


def _clean(value: str) -> str:
    return value if value.isprintable() else _FORBIDDEN.sub("", value)


def _escape_clean(value: str) -> str:
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return value.replace("\n", "&#10;").replace("\t", "&#9;")


def clean_text(value: str) -> str:
    """Return `value` for a toast's text, not yet escaped. Windows reads a text that starts with «ms-resource:» as a
    name in the app's resources: a zero-width space before it prevents that."""
    value = _clean(value)
    start = value.lstrip()
    return f"\u200b{start}" if start[:12].lower() == "ms-resource:" else value


def render(message: Push) -> bytes:
    """Return the toast, UTF-8, of at most 5,000 bytes; title and body are shortened to fit. `launch` is a query string
    of `data` and the deep link (as `wzrk_dl`). Raises UnsendableError when shortening is not enough."""
    head, tail = _make_frame(message)
    title, body = clean_text(message.title), clean_text(message.body)
    whole = f"{head}{_escape_clean(title)}{_BETWEEN}{_escape_clean(body)}{tail}".encode()
    if len(whole) <= TOAST_BYTES:
        return whole
    fixed = len(whole) - measure_xml(title) - measure_xml(body)
    title, body = fit_or_refuse(title, body, TOAST_BYTES - fixed, measure_xml)
    return f"{head}{_escape_clean(title)}{_BETWEEN}{_escape_clean(body)}{tail}".encode()


def measure_toast(message: Push) -> int:
    """Return the bytes of the toast before anything is shortened."""
    head, tail = _make_frame(message)
    return (
        len(head.encode()) + measure_xml(message.title) + len(_BETWEEN) + measure_xml(message.body) + len(tail.encode())
    )


def measure_xml(text: str) -> int:
    """Return the bytes of a clean text in XML: an ampersand is five."""
    return len(_escape_clean(text).encode())


def _make_frame(message: Push) -> tuple[str, str]:
    """Return what stands before the title and after the body."""
    launch = dict(message.data)
    if message.deep_link:
        launch.setdefault("wzrk_dl", message.deep_link)
    query = "&amp;".join([f"{_quote(key)}={_quote(value)}" for key, value in launch.items()])
    parts = ["</text>"]
    if message.image:
        parts.append(f'<image placement="hero" src="{escape(message.image)}"/>')
    if message.large_icon:
        parts.append(f'<image placement="appLogoOverride" src="{escape(message.large_icon)}"/>')
    parts.append("</binding></visual>")
    if not message.sound:
        parts.append('<audio silent="true"/>')
    elif message.sound != "default":
        parts.append(f'<audio src="ms-appx:///{quote(message.sound)}"/>')
    parts.append("</toast>")
    return f'<toast launch="{query}"><visual><binding template="ToastGeneric"><text>', "".join(parts)


def _quote(value: str) -> str:
    """Quote a key or value of a query string; ids need no quoting, links and names repeat and are kept."""
    return value if _UNRESERVED(value) else _quote_unsafe(value)


@functools.lru_cache(maxsize=256)
def _quote_unsafe(value: str) -> str:
    return quote_plus(value, errors="replace")


def make_tag(collapse: str) -> str:
    """Return `collapse` as an X-WNS-Tag: itself when it fits, else 16 hexadecimal digits of its SHA-256."""
    if len(collapse) <= TAG and collapse.isascii() and collapse.isalnum():
        return collapse
    return hashlib.sha256(collapse.encode()).hexdigest()[:TAG]
