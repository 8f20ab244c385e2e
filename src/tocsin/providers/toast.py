"""A push as a Windows toast (schema http://schemas.microsoft.com/notifications/2012/toast.xsd)."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, urlencode

from tocsin.providers.contract import Push

TAG = 16  # characters of X-WNS-Tag at most, letters and digits only

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "", "\t": "&#9;"})
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML 1.0 cannot hold


def escape(value: str) -> str:
    """`value` for XML text or an attribute in double quotes."""
    return _FORBIDDEN.sub("", value).translate(_ESCAPES)


def escape_text(value: str) -> str:
    """`value` for a toast's text. Windows takes a text that starts with «ms-resource:» for a name in the resources:
    a zero-width space before it keeps it what its author wrote."""
    if _FORBIDDEN.sub("", value).lstrip().lower().startswith("ms-resource:"):
        value = "\u200b" + value.lstrip()
    return escape(value)


def render(message: Push) -> bytes:
    """The toast, UTF-8. The app gets `data` and the deep link (as `wzrk_dl`) back in `launch`, as a query string."""
    launch = dict(message.data)
    if message.deep_link:
        launch.setdefault("wzrk_dl", message.deep_link)
    parts = [f'<toast launch="{escape(urlencode(launch))}"><visual><binding template="ToastGeneric">']
    parts.append(f"<text>{escape_text(message.title)}</text><text>{escape_text(message.body)}</text>")
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
    return "".join(parts).encode()


def make_tag(collapse: str) -> str:
    """`collapse` as an X-WNS-Tag: itself when it fits, else 16 hexadecimal digits that stand for it."""
    if len(collapse) <= TAG and collapse.isascii() and collapse.isalnum():
        return collapse
    return hashlib.sha256(collapse.encode()).hexdigest()[:TAG]
