"""E-mail through the operator's own relay."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.contract import AddressKind, Mail, Message, Platform, Receipt, Scope
from tocsin.providers.mime import find_fault, render
from tocsin.providers.transport import Answer, Envelope, Transport
from tocsin.providers.verdict import (
    DENIED,
    GONE,
    REFUSED,
    WRONG_TEMPLATE,
    Verdict,
    check_ca,
    judge_failure,
    throttled,
    unavailable,
    wrong_kind,
)

LATER = 300.0  # seconds: greylisting and full queues; the usual first wait of a mail server
RELAY_WAIT = 60.0  # seconds: 421, the relay itself is going away

_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_ADDRESS = re.compile(r"[!-~]+@[A-Za-z0-9.-]+")
_ENHANCED = re.compile(r"^\d{3}[ -]([245]\.\d{1,3}\.\d{1,3})\b")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set smtp`."""

    host: Annotated[str, Meta(description="the relay")]
    sender: Annotated[str, Meta(description="the From address, such as news@example.com")]
    port: Annotated[int, Meta(description="587 for starttls, 465 for tls", ge=1, le=65535)] = 587
    username: Annotated[str, Meta(description="empty to send without logging in")] = ""
    password: Annotated[str, Meta(description="the password for username", extra={"file": True})] = ""
    tls: Annotated[
        Literal["starttls", "tls", "none"],
        Meta(description="starttls is required where it is chosen: no mail and no password ever goes in the clear"),
    ] = "starttls"
    hello: Annotated[str, Meta(description="the name to greet the relay with; empty for the sender's domain")] = ""
    connections: Annotated[int, Meta(description="to the relay, at most", ge=1, le=200)] = 20
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds for one mail")] = 60.0

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port}, sender={self.sender!r})"


_BUSY = unavailable(LATER)
# Reply codes that speak of the relay and us, not of a mailbox; they go before the enhanced code.
RELAY: dict[int, Verdict] = {
    421: unavailable(RELAY_WAIT, Scope.LANE),
    454: unavailable(LATER, Scope.LANE),  # STARTTLS or log-in not possible just now
    530: DENIED,
    534: DENIED,
    535: DENIED,
    538: DENIED,
}
ENHANCED: dict[str, Verdict] = {
    "5.1.1": GONE,
    "5.1.2": GONE,
    "5.1.10": GONE,
    "5.2.1": GONE,
    "5.2.2": REFUSED,  # full: the mailbox is alive
    "4.2.2": unavailable(LATER, Scope.DEVICE),
    "4.7.28": throttled(LATER, Scope.LANE),  # «unusual rate from your address»
    "5.3.4": WRONG_TEMPLATE,
    "5.7.8": DENIED,
}


def receipt(answer: Answer) -> Receipt:
    """What the relay's last reply means. 250 after the data is a yes to carry it, not a delivery."""
    if answer.failure:
        return judge_failure(answer, RELAY_WAIT)
    line = next((r for r in reversed(answer.replies) if r.startswith(str(answer.status))), "")
    if answer.status < 300:
        return Receipt(outcome=Outcome.ACCEPTED, vendor_id=_read_queue_id(line))
    found = _ENHANCED.match(line)
    enhanced = found[1] if found else ""
    code = f"{answer.status} {enhanced}".strip()
    detail = line[4:]
    verdict = RELAY.get(answer.status) or ENHANCED.get(enhanced)
    if verdict is None and answer.status == 552 and not enhanced:
        verdict = WRONG_TEMPLATE  # too large, said without an enhanced code
    if verdict is None:
        verdict = REFUSED if answer.status >= 500 else _BUSY
    return verdict.receipt(code, detail)


def _read_queue_id(line: str) -> str:
    """The relay's id of an accepted mail, where it says one («queued as 4XyZ»)."""
    found = re.search(r"queued as ([!-~]{1,100})", line, re.IGNORECASE)
    return found[1] if found else ""


class Smtp:
    """A mail relay."""

    name: ClassVar[str] = "smtp"
    kind: ClassVar[AddressKind] = "email"
    platform: ClassVar[Platform] = "email"
    Settings: ClassVar[type[msgspec.Struct]] = Settings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, Settings)
        _check(settings)
        # A file ends with a line break, a password does not.
        self._settings = settings = msgspec.structs.replace(settings, password=settings.password.strip("\r\n"))
        scheme = "smtps" if settings.tls == "tls" else "smtp"
        hello = settings.hello or settings.sender.rpartition("@")[2]
        self._url = f"{scheme}://{settings.host}:{settings.port}/{hello}"
        self._relay = transport.relay(ca=check_ca(settings.ca), connections=settings.connections)

    def __repr__(self) -> str:
        return f"Smtp({self._url!r})"

    async def send(self, message: Message, now: float) -> Receipt:
        """See `Provider.send`. A mail whose headers could be read two ways is refused here."""
        if not isinstance(message, Mail):
            return wrong_kind(self.name)
        fault = find_fault(message, self._settings.sender)
        if fault:
            return REFUSED.receipt("not a mail", fault)
        envelope = request(message, self._settings, self._url, now)
        return receipt(await self._relay.mail(envelope))

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._relay.aclose()


def request(message: Mail, settings: Settings, url: str, now: float) -> Envelope:
    """The envelope and the bytes of one mail."""
    return Envelope(
        url=url,
        sender=settings.sender,
        recipient=message.address.value,
        body=render(message, settings.sender, now),
        username=settings.username,
        password=settings.password,
        tls=settings.tls == "starttls",
        timeout=settings.timeout,
    )


def _check(settings: Settings) -> None:
    if not _HOST.fullmatch(settings.host):
        raise Misconfigured(f"host has to be a name or an address, not {settings.host!r}.")
    if not _ADDRESS.fullmatch(settings.sender):
        raise Misconfigured(f"sender has to be an address such as news@example.com, not {settings.sender!r}.")
    if settings.hello and not _HOST.fullmatch(settings.hello):
        raise Misconfigured(f"hello has to be a host's name, not {settings.hello!r}.")
    if settings.tls == "none" and settings.username:
        raise Misconfigured("tls none would show the password to the network: use starttls or tls with username.")
