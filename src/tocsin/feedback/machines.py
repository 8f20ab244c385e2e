"""Who asks for a mail's picture or follows its links without anybody having read it: proxies, scanners, previews.

It is told by what a program says of itself, and by how quick it is. Some say nothing and take their time: what is left
are people, most of them.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Iterable

QUICK_SECONDS = 2.0  # after a mail was handed over; somebody who reads it has not even got it
HOLD_SECONDS = 1.0  # for so long a quick click waits for a second one
AGENT_BYTES = 512  # of what a program calls itself
MOST = 20_000  # mails of which quick clicks are remembered

# Mail programs' proxies fetch pictures before, or instead of, the reader. Apple's says nothing but this; the second is
# Gmail's, when a mail arrives.
_PROXIES = re.compile(
    r"Mozilla/5\.0|.* Edge/12\.246 Mozilla/5\.0|.*(?:GoogleImageProxy|YahooMailProxy).*", re.IGNORECASE | re.DOTALL
)
# Mail gateways and virus scanners by name; then what robots and previews of links call themselves. Cubot makes phones.
_SCANNERS = re.compile(
    r"barracuda|proofpoint|mimecast|ironport|ciscosecureemail|messagelabs|symantec|trend ?micro|sophos"
    r"|forti(?:mail|guard)|fireeye|trellix|zscaler|forcepoint|bitdefender|kaspersky|avast|virustotal|urlscan|safelinks|vadesecure"
    r"|google-safety|(?<!cu)bot\b|bot/|crawler|spider|slurp|scanner|headlesschrome|phantomjs"
    r"|facebookexternalhit|skypeuripreview|bingpreview|linkpreview|whatsapp/",
    re.IGNORECASE,
)
_AHEAD = frozenset((b"purpose", b"sec-purpose", b"x-purpose", b"x-moz"))  # a browser's words for «before anybody asked»


def judge_visit(method: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return why a request cannot be a person's: "head", "prefetch", "proxy" or "scanner"; "" when it may be one.
    headers: names in small letters, and values."""
    if method == "HEAD":
        return "head"
    for name, value in headers:
        if name == b"user-agent":
            if reason := _judge_agent(value[:AGENT_BYTES].decode("latin-1").strip()):
                return reason
        elif name in _AHEAD and b"pre" in value.lower():  # prefetch, prerender, preview
            return "prefetch"
    return ""


@functools.lru_cache(maxsize=1024)
def _judge_agent(agent: str) -> str:
    if _PROXIES.fullmatch(agent):
        return "proxy"
    return "scanner" if _SCANNERS.search(agent) else ""


class QuickClicks:
    """The clicks on mails that have only just been sent. Who follows two links of one within QUICK_SECONDS is a
    machine; one click alone may be somebody's, and is theirs when no second one came for HOLD_SECONDS."""

    def __init__(self) -> None:
        self._mails: dict[tuple[int, int], _Quick] = {}

    def take(self, mail: tuple[int, int], link: bytes, decide: Callable[[bool], object]) -> None:
        """Take a click on a mail that was sent `is_quick` ago. mail: its chunk and position. link: where it leads.
        decide: called once for a mail, with whether a machine clicked; for a further link with True."""
        quick = self._mails.get(mail)
        if quick is None and len(self._mails) >= MOST:
            decide(True)
        elif quick is None:
            loop = asyncio.get_running_loop()
            quick = self._mails[mail] = _Quick(link, decide)
            quick.timer = loop.call_later(HOLD_SECONDS, quick.decide, False)
            loop.call_later(QUICK_SECONDS + HOLD_SECONDS, self._mails.pop, mail, None)
        elif link != quick.link:
            quick.decide(True)


def is_quick(seconds: float) -> bool:
    """Return whether a click so long after its mail was sent is a quick one."""
    return 0 <= seconds <= QUICK_SECONDS


class _Quick:
    """The first quick click on a mail. timer: what decides that it is somebody's."""

    def __init__(self, link: bytes, decide: Callable[[bool], object]):
        self.link = link
        self._decide = decide
        self.timer: asyncio.TimerHandle | None = None

    def decide(self, machine: bool) -> None:
        """Say who clicked; that it was a machine also after it was somebody."""
        if self.timer is not None:
            self.timer.cancel()
        self._decide(machine)
