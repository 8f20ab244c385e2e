"""E-mail through the operator's own relay."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.answer_table import (
    DENIED,
    GONE,
    REFUSED,
    WRONG_TEMPLATE,
    AnswerRule,
    check_ca,
    judge_failure,
    throttled,
    unavailable,
    wrong_kind,
)
from tocsin.providers.contract import NO_TLS, HandOver, Mail, Message, Receipt, Scope, unnoted
from tocsin.providers.mail.dkim import DkimSigner
from tocsin.providers.mail.judgement import OUR_LIMIT, is_policy, judge
from tocsin.providers.mail.mime import find_fault, to_ascii, write
from tocsin.providers.transport import MailTransfer, Server, Transport, VendorAnswer

LATER = 300.0  # seconds: greylisting and full queues; the usual first wait of a mail server
RATE_WAIT = 10.0  # over a rate of mails a second; the slow start after it finds the relay's own
LIMIT_WAIT = 600.0  # over what may be sent in an hour or a day; Amazon SES: «wait for an interval of up to 10 minutes»
RELAY_WAIT = 60.0  # seconds: 421, the relay itself is going away
ANSWER = 1000  # letters of a refusal that are judged
LOCAL_BYTES = 64  # of an address before the @ (RFC 5321 4.5.3.1.1)

_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")
_ENHANCED = re.compile(r"\d{3}[ -]([245]\.\d{1,3}\.\d{1,3})\b ?")


class SmtpSettings(msgspec.Struct, frozen=True, kw_only=True):
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
    bounce: Annotated[
        str, Meta(description="where bounces go, such as bounces@example.com, which gets bounces+ID@; empty for sender")
    ] = ""
    dkim_domain: Annotated[str, Meta(description="the domain that signs: the sender's or a parent of it")] = ""
    dkim_selector: Annotated[str, Meta(description="the key is published at SELECTOR._domainkey.DOMAIN")] = ""
    dkim_key: Annotated[
        str, Meta(description="PEM file of an RSA (2048 bits) or Ed25519 private key", extra={"file": True})
    ] = ""
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds for one mail")] = 60.0
    network: Annotated[
        Literal["any", "public"],
        Meta(description="public: no address of the operator's own network is connected to; so a dashboard sets it"),
    ] = "any"

    def __repr__(self) -> str:
        return f"SmtpSettings(host={self.host!r}, port={self.port}, sender={self.sender!r})"


_BUSY = unavailable(LATER)
_AWAY = unavailable(LATER, Scope.LANE)
_POLICY = AnswerRule(Outcome.REFUSED, suspect=True)  # about what we send or who we are, not about the mailbox
# Reply codes about the relay and us, not about a mailbox; they are looked up before the enhanced code.
RELAY: dict[int, AnswerRule] = {
    421: unavailable(RELAY_WAIT, Scope.LANE),  # RFC 5321 3.8: the connection is being closed
    454: _AWAY,  # STARTTLS or log-in not possible just now (RFC 3207 4, RFC 4954 6)
    530: DENIED,  # RFC 4954 6, and 534, 535, 538 as well
    534: DENIED,
    535: DENIED,
    538: DENIED,
}
# What one judgement does not say: how long to wait, and whom else the answer concerns.
ENHANCED: dict[str, AnswerRule] = {
    "4.2.2": unavailable(LATER, Scope.DEVICE),
    "4.7.28": throttled(LATER, Scope.LANE),  # Gmail: «unusual rate from your address»
    "5.3.4": WRONG_TEMPLATE,
    "5.7.8": DENIED,
}


def receipt(answer: VendorAnswer) -> Receipt:
    """Return the receipt for the relay's last reply. 250 after the data means accepted for delivery, not delivered."""
    if answer.failure:
        failed = judge_failure(answer, RELAY_WAIT)
        return msgspec.structs.replace(failed, code=NO_TLS) if answer.step == "TLS" else failed
    words = " ".join([_ENHANCED.sub("", line) if _ENHANCED.match(line) else line[4:] for line in answer.replies])
    if answer.status < 300:
        return Receipt(outcome=Outcome.ACCEPTED, vendor_id=_read_queue_id(words))
    found = _ENHANCED.match(answer.replies[-1]) if answer.replies else None
    enhanced = found[1] if found else ""
    verdict = _judge(answer.status, enhanced, answer.step, words)
    return verdict.receipt(f"{answer.status} {enhanced}".strip(), words)


def _judge(status: int, enhanced: str, step: str, words: str) -> AnswerRule:
    if limit := OUR_LIMIT.search(words[:ANSWER]):
        return throttled(RATE_WAIT if limit[0].lower().endswith("rate") else LIMIT_WAIT, Scope.LANE)
    verdict = RELAY.get(status)
    if verdict is None and step == "AUTH":
        verdict = DENIED if status >= 500 else _AWAY
    if verdict is None and step in ("greeting", "EHLO", "STARTTLS", "RSET"):
        verdict = _AWAY  # no mail was even named
    if verdict is not None:
        return verdict
    if (verdict := ENHANCED.get(enhanced)) is not None:
        return verdict
    if status == 552 and not enhanced and step != "RCPT":
        return WRONG_TEMPLATE  # too large, by its SIZE at MAIL already; at RCPT a 552 means a full mailbox
    if step == "MAIL":
        return _POLICY if status >= 500 else _BUSY  # about the sender: no mailbox was named yet
    if status < 500:
        return _BUSY
    said = f"{enhanced} {words[:ANSWER]}"
    judgement, code = judge(enhanced, f"{status} {said}")
    if judgement == "hard":
        return GONE
    # Gmail 5.7.1 and 5.7.26, Outlook 5.7.515: spam, policy, no authentication
    return _POLICY if code.startswith("5.7.") or is_policy(said) else REFUSED


def _read_queue_id(words: str) -> str:
    """Return the relay's id of an accepted mail («queued as 4XyZ»), "" when it gives none."""
    found = re.search(r"queued as ([!-~]{1,100})", words, re.IGNORECASE)
    return found[1] if found else ""


class Smtp:
    """A mail relay."""

    name: ClassVar[str] = "smtp"
    kind: ClassVar[AddressKind] = "email"
    platform: ClassVar[Platform] = "email"
    Settings: ClassVar[type[msgspec.Struct]] = SmtpSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, SmtpSettings)
        _check(settings)
        self._settings = settings
        self._signer = _make_signer(settings)
        server = Server(
            host=settings.host,
            port=settings.port,
            hello=settings.hello or settings.sender.rpartition("@")[2],
            tls=settings.tls,
            username=settings.username,
            password=settings.password.strip("\r\n"),  # a file ends with a line break, a password does not
            public=settings.network == "public",
        )
        self._relay = transport.relay(server, ca=check_ca(settings.ca), connections=settings.connections)

    def __repr__(self) -> str:
        return f"Smtp({self._settings.host!r}, {self._settings.port})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._relay.retire()
        if self._signer is not None:
            self._signer.retire()

    @property
    def at_once(self) -> int:
        return 2 * self._settings.connections  # the next mail is written and signed while one is on its way

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one mail; see `Provider.send`. A mail with a line break in a header is `REFUSED` without a
        connection."""
        if not isinstance(message, Mail):
            return wrong_kind(self.name)
        settings = self._settings
        if not message.address.value.isascii():
            to = msgspec.structs.replace(message.address, value=to_ascii(message.address.value))
            message = msgspec.structs.replace(message, address=to)
        sender = return_path(settings, message)
        fault = find_fault(message, settings.sender)
        if not fault and len(sender.partition("@")[0]) > LOCAL_BYTES:
            fault = "the bounce address is too long"
        if fault:
            return REFUSED.receipt("not a mail", fault)
        letter = write(message, settings.sender, now)
        body = letter.join() if self._signer is None else await self._signer.sign(letter, now)
        envelope = MailTransfer(sender=sender, recipient=message.address.value, body=body, timeout=settings.timeout)
        return receipt(await self._relay.mail(envelope, hand_over))

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`: connect, TLS and the log-in."""
        return receipt(await self._relay.greet(self._settings.timeout))


def return_path(settings: SmtpSettings, message: Mail) -> str:
    """Return the envelope's sender: an address of this mail alone (VERP), so that its bounce identifies it."""
    if not settings.bounce or not message.bounce:
        return settings.sender
    local, _, domain = settings.bounce.rpartition("@")
    return f"{local}+{message.bounce}@{domain}"


def _make_signer(settings: SmtpSettings) -> DkimSigner | None:
    given = (settings.dkim_domain, settings.dkim_selector, settings.dkim_key)
    if not any(given):
        return None
    if not all(given):
        raise Misconfigured("dkim_domain, dkim_selector and dkim_key belong together: give all three or none.")
    domain, own = settings.dkim_domain.lower(), settings.sender.rpartition("@")[2].lower()
    if own != domain and not own.endswith(f".{domain}"):
        raise Misconfigured(f"dkim_domain has to be {own} or a domain above it, not {settings.dkim_domain!r}.")
    return DkimSigner(domain, settings.dkim_selector, settings.dkim_key)


def _check(settings: SmtpSettings) -> None:
    if not _HOST.fullmatch(settings.host):
        raise Misconfigured(f"host has to be a name or an address, not {settings.host!r}.")
    if not _ADDRESS.fullmatch(settings.sender):
        raise Misconfigured(f"sender has to be an address such as news@example.com, not {settings.sender!r}.")
    if settings.bounce and not _ADDRESS.fullmatch(settings.bounce):
        raise Misconfigured(f"bounce has to be an address such as bounces@example.com, not {settings.bounce!r}.")
    if settings.hello and not _HOST.fullmatch(settings.hello):
        raise Misconfigured(f"hello has to be a host's name, not {settings.hello!r}.")
    if settings.tls == "none" and settings.username:
        raise Misconfigured("tls none would show the password to the network: use starttls or tls with username.")
