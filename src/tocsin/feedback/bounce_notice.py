"""Mails without a delivery status that say that another one did not arrive: qmail, Exim, older gateways. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from tocsin.providers.mail.judgement import READ

Fields = list[tuple[str, str]]  # (name in lower case, unfolded value)

ADDRESS = re.compile(r"[^\s<>,;:\"()\[\]@]{1,64}@[^\s<>,;:\"()\[\]@]{1,255}")
ADDRESSES = 16  # of one notice
TEXT = 64 * 1024  # bytes of its text that are looked at

_DAEMON = re.compile(
    r"mailer[-_.]?daemon|post ?master|mail[-_ .]?(?:daemon|delivery|system)|<>|\bdaemon\b", re.IGNORECASE
)
_SUBJECT = re.compile(
    r"^(?!re:|aw:|fwd?:).*(?:undeliver|fail\w{0,6}[\w ]{0,20}(?:notice|deliver)"
    r"|deliver\w{0,6}[\w ]{0,30}(?:fail|status|problem|error|report|not)"
    r"|return(?:ed|ing)[\w ]{0,20}(?:mail|message|to sender)|(?:not|un)[\w ]{0,10}(?:be )?(?:delivered|deliverable)"
    r"|mail[\w ]{0,20}(?:error|fail)|non-?deliver|bounced|user unknown)",
    re.IGNORECASE,
)
_AUTOMATIC = ("x-autoreply", "x-autorespond", "x-vacation", "x-auto-response")  # of somebody who is away
_DELAYED = re.compile(
    r"delayed|still (?:being |trying)|will (?:continue|keep|be re-?tried|re-?try|try)"
    r"|(?:warning|transient)[\s\S]{0,60}?only"
    r"|do not need to (?:resend|send)|not yet been delivered",
    re.IGNORECASE,
)
# Where the copy of the mail that did not arrive begins: a ruled line that speaks of it, or its first fields.
_COPY = re.compile(
    r"^[ \t>|]*+[-=_*]{2,}+[^\n]{0,80}?"
    r"(?:copy|original|returned message|unsent|message (?:follows|header|text)|headers?\b)[^\n]*$"
    r"|^[ \t>|]*+(?:return-path:|received:|dkim-signature:|content-type: ?message/)",
    re.IGNORECASE | re.MULTILINE,
)
# Fields of that mail that are repeated among the words: their values say nothing about the address.
_QUOTED = re.compile(
    r"^[ \t>|]*+(?:subject|message-id|date|sent|precedence|authentication-results|mime-version"
    r"|(?:list|x|content)-[\w-]+):[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)


class BounceNotice(msgspec.Struct, frozen=True):
    """A mail that did not arrive, in somebody's words. words: all that is said of it. delayed: it may arrive yet.
    about: the addresses it names, those of `copy` too. copy: the header of the mail itself, where it is quoted."""

    words: str
    delayed: bool
    about: tuple[str, ...]
    copy: str


def is_notice(outer: Fields) -> bool:
    """Return whether a header is that of a mail server's notice, and not a letter or an automatic reply."""
    values = dict(reversed(outer))
    if values.get("x-failed-recipients"):
        return True
    if any(name in values for name in _AUTOMATIC):
        return False
    if _DAEMON.search(values.get("from", "")):
        return True
    return not values.get("auto-submitted", "no").lower().startswith("auto-r") and bool(
        _SUBJECT.search(values.get("subject", ""))
    )


def read_notice(outer: Fields, texts: Sequence[bytes]) -> BounceNotice:
    """Read the text parts of a mail that `is_notice`."""
    text = b"\n".join(texts)[:TEXT].decode("utf-8", "replace")
    found = _COPY.search(text)
    words, copy = (text[: found.start()], text[found.start() :]) if found else (text, "")
    words = _QUOTED.sub("", words)
    ours = {one.lower() for name, value in outer if name in ("to", "from") for one in ADDRESS.findall(value)}
    failed = [value for name, value in outer if name == "x-failed-recipients"]
    named = [one.lower().strip("'.`*") for one in ADDRESS.findall(" ".join([*failed, words[:READ]]))]
    about = dict.fromkeys(one for one in named if one not in ours and not _DAEMON.search(one))
    return BounceNotice(words[:READ], bool(_DELAYED.search(words[:READ])), tuple(about)[:ADDRESSES], copy)
