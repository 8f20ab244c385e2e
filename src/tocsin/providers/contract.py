"""What a provider gets (messages), what it returns (receipts), and the protocol of a provider.

A provider never raises for a result of delivery: every answer of a vendor is a `Receipt`. Its constructor raises
`Misconfigured` for settings that cannot work.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Protocol

import msgspec

from tocsin.channels import AddressKind, Platform
from tocsin.outcome import Outcome
from tocsin.providers.http.transfer import HandOver, unnoted
from tocsin.providers.transport import Transport

__all__ = [
    "Address",
    "HandOver",
    "Mail",
    "Message",
    "Notice",
    "Pieces",
    "Provider",
    "Push",
    "Receipt",
    "Scope",
    "unnoted",
]


class Address(msgspec.Struct, frozen=True, array_like=True):
    """One device or mailbox. registered_at: epoch seconds; a vendor's «unregistered since» before it is out of date."""

    kind: AddressKind
    value: str
    registered_at: float = 0.0


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """One notification for one device, rendered and vendor-neutral.

    id: canonical lower-case UUID, the same on every attempt at this recipient and device (APNs `apns-id`).
    collapse: at most 64 bytes of [a-zA-Z0-9_-], the same for one campaign: a second copy replaces the first
        on the screen.
    collapsible: another message of that campaign may take its place while it waits for the device.
    sound: a file name of the app, "default" for the platform's own, "" for none.
    data: the app's own keys, strings only; holds `wzrk_id` («campaign_yyyymmdd») and `wzrk_pid`.
    expires_at: epoch seconds after which the vendor should discard it.
    """

    id: str
    collapse: str
    address: Address
    title: str
    body: str
    deep_link: str = ""
    image: str = ""
    large_icon: str = ""
    sound: str = ""
    category: str = ""
    badge: int | None = None
    mutable_content: bool = False
    channel: str = ""
    data: dict[str, str] = {}
    expires_at: int
    collapsible: bool = True


class Pieces(msgspec.Struct, frozen=True):
    """HTML in pieces: `frame`, and between each two of it one of `fills`, a URL. fixed: the frame is the same for all
    recipients, so that its bytes are made once."""

    frame: tuple[str, ...]
    fills: tuple[str, ...]
    fixed: bool = False

    def join(self) -> str:
        """Return the HTML."""
        whole = [""] * (2 * len(self.frame) - 1)
        whole[::2], whole[1::2] = self.frame, self.fills
        return "".join(whole)


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """One e-mail for one mailbox, rendered. `html` or `text` may be empty, not both. `id` as in `Push`; `campaign` is
    the `wzrk_id`. No header value may hold CR or LF: content refuses them before a `Mail` is made.

    unsubscribe: the https URL that takes this mailbox off the list by one POST (RFC 8058), or "".
    bounce: the signed id that a bounce of this mail has to bring back in its address (VERP), or "".
    pieces: the same HTML, where it is known in pieces.
    """

    id: str
    campaign: str
    address: Address
    subject: str
    html: str = ""
    text: str = ""
    sender_name: str = ""
    reply_to: str = ""
    unsubscribe: str = ""
    bounce: str = ""
    pieces: Pieces | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One text message or web push, rendered. `content` is {body}, for a browser also {title, platform_specific}. `id`,
    `collapse`, `expires_at` as in `Push`; `push_id` lets clicks come back, at `track_url` («https://HOST/track»; ""
    when this server has no public address)."""

    id: str
    campaign: str
    collapse: str
    push_id: str
    address: Address
    content: dict[str, Any]
    expires_at: int
    track_url: str = ""


Message = Push | Mail | Notice


class Credential(msgspec.Struct, frozen=True, array_like=True):
    """What `tocsin provider set` stored. settings: JSON. changed_at: epoch seconds; a change makes a new lane. trusted:
    answers about dead addresses are believed without the circuit breaker."""

    account_id: str
    name: str
    settings: str
    changed_at: float
    trusted: bool = False

    def __repr__(self) -> str:
        return f"Credential({self.account_id!r}, {self.name!r})"


class Scope(Enum):
    """What an answer applies to beyond the message that got it; retry and circuit breaker act on it."""

    MESSAGE = "message"  # this message only
    DEVICE = "device"  # this address
    LANE = "lane"  # the credential: pause it (throttled, unavailable) or stop it (denied)
    CAMPAIGN = "campaign"  # the template is wrong: every other recipient would get the same answer


NO_TLS = "no TLS"  # the code of a receipt when TLS with a relay waits for another setting


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one attempt.

    code: the vendor's own code («UNREGISTERED», «410 Unregistered», «550 5.1.1»), never empty unless accepted.
    vendor_id: the vendor's id of an accepted message. detail: the vendor's message, at most 300 characters, no secret.
    retry_after: seconds to wait before the next attempt, from the vendor's header or its documentation.
    suspect: the answer may be about our settings and not about this device or mailbox (APNs' `BadDeviceToken` is also
        what the wrong environment says to everybody); when many are, the lane stops instead of believing them.
    """

    outcome: Outcome
    code: str = ""
    vendor_id: str = ""
    detail: str = ""
    retry_after: float | None = None
    scope: Scope = Scope.MESSAGE
    suspect: bool = False


class Provider(Protocol):
    """One vendor for one account. at_once: messages it can have under way. `Settings` is a frozen msgspec struct, one
    field an option of `tocsin provider set`: its description is in `Annotated[..., Meta(description=...)]`, and
    `extra={"file": True}` marks an option whose value is read from the named file, `{"made": True}` a field that
    commands fill in."""

    name: ClassVar[str]
    kind: ClassVar[AddressKind]
    platform: ClassVar[Platform]
    Settings: ClassVar[type[msgspec.Struct]]

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None: ...

    @property
    def at_once(self) -> int: ...

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one message and return the vendor's answer. now: epoch seconds. May be called many times at once: the
        provider bounds its connections and requests in flight. hand_over: called before bytes can leave from which the
        vendor could act."""
        ...

    async def check(self, now: float) -> Receipt:
        """Ask the vendor whether it takes this credential, and reach nobody. Return its answer: `ACCEPTED`, or `GONE`
        for a made-up device, when it does."""
        ...

    def retire(self) -> None:
        """Make room for another that takes this one's place: what is under way gets its answer, and after the last one
        no connection or thread is left. A message that comes later is sent all the same."""
        ...
