"""The policies of an account, JSON by name: frequency caps, quiet hours, limits of its endpoints, its control group,
its conversion, its retention, whom its apps may name, what its mails report, what its providers are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field
from sqlalchemy import Connection, bindparam, delete, select

from tocsin.channels import CHANNELS
from tocsin.errors import Invalid, Misconfigured
from tocsin.store import schema
from tocsin.store.rows import upsert_rows

EVERY_OTHER = "*"
EventName = Annotated[str, Meta(min_length=1, max_length=512)]
MOST_NAMES = 100_000  # of a kind, in one account
Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z", extra={"is": "a time of day, HH:MM"})]
NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
DAYS = ("1", "2", "3", "4", "5", "6", "7")  # as they are sent
WEEK = "an object of lists, by weekday 1 (Sunday) to 7"
WINDOWS = 8  # of one day


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """most: messages to one user in so many days, which roll. dwell_minutes: between two of them. throttle: messages of
    the channel in five minutes, which roll too."""

    most: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    days: Annotated[float, Meta(gt=0, le=90)] = 1.0
    dwell_minutes: Annotated[float, Meta(ge=1, le=10_080)] | None = None
    throttle: Annotated[int, Meta(ge=1)] | None = None


class WindowJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    start: Clock = field(name="from")
    end: Clock = field(name="to")


Windows = Annotated[tuple[WindowJson, ...], Meta(max_length=WINDOWS)]


class WeekJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=dict(zip(NAMES, DAYS, strict=True))):
    """`dnd_info`: windows by weekday, "1" (Sunday) to "7". Not a dict, whose keys msgspec leaves out of a place."""

    sunday: Windows | UnsetType = UNSET
    monday: Windows | UnsetType = UNSET
    tuesday: Windows | UnsetType = UNSET
    wednesday: Windows | UnsetType = UNSET
    thursday: Windows | UnsetType = UNSET
    friday: Windows | UnsetType = UNSET
    saturday: Windows | UnsetType = UNSET

    def __post_init__(self) -> None:
        if all(getattr(self, name) is UNSET for name in NAMES):
            raise Invalid(f"dnd_info must be {WEEK}")


class QuietJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `dnd` object (its shape: CleverTap's create-campaign)."""

    dnd_info: Annotated[WeekJson, Meta(extra={"is": WEEK})]
    dnd_timezone: Literal["user", "account"] = "user"
    message_state: Literal["delay", "discard"] = "delay"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one account, instead of the server's settings of these names."""

    create_per_second: Annotated[float, Meta(gt=0)] | None = None
    create_at_once: Annotated[int, Meta(ge=1)] | None = None
    uploads_at_once: Annotated[int, Meta(ge=1)] | None = None
    event_names: Annotated[int, Meta(ge=1, le=MOST_NAMES)] | None = None
    event_properties: Annotated[int, Meta(ge=1, le=MOST_NAMES)] | None = None
    profile_properties: Annotated[int, Meta(ge=1, le=MOST_NAMES)] | None = None
    app_requests_per_second: Annotated[float, Meta(gt=0)] | None = None
    send_requests_per_second: Annotated[float, Meta(gt=0)] | None = None
    send_people_per_second: Annotated[float, Meta(gt=0)] | None = None


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The system control group: these percent of all users get no campaign."""

    percent: Annotated[float, Meta(ge=0, le=50)] = 0.0


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts as converted where a campaign does not say: for sends by identity. time: such as 30m, 1H, 1D.
    revenue_property: says what such an event is worth, also to the goals of campaigns that name none."""

    event_name: Annotated[str, Meta(min_length=1, max_length=512)]
    conversion_time: Annotated[str, Meta(pattern="^[0-9]{1,4}[mHDWM]$")] = "1D"
    revenue_property: Annotated[str, Meta(min_length=1, max_length=120)] | None = None


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the ledger keeps the body and the recipients of a message after its end. events: days that the facts
    store keeps events of a name, with EVERY_OTHER those of all that are not named; it keeps others for ever."""

    days: Annotated[float, Meta(ge=1, le=3650)] = 30.0
    events: dict[EventName, Annotated[int, Meta(ge=1, le=3650)]] = {}


class Apps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a device may say it belongs to. trust: to whomever it says, as with CleverTap. confirm: to nobody, until an
    upload names the device."""

    identities: Literal["confirm", "trust"] = "confirm"


class Tracking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What mails are made to report: that they were opened, that their links were clicked."""

    opens: bool = True
    clicks: bool = True


# Callers may say which provider they mean by a name they gave it with CleverTap.
ProviderNames = dict[Annotated[str, Meta(min_length=1, max_length=100)], Annotated[str, Meta(max_length=16)]]


class Policy(msgspec.Struct, frozen=True):
    caps: dict[str, Cap] = {}
    dnd: QuietJson | None = None
    limits: Limits = Limits()
    control: Control = Control()
    conversion: Conversion | None = None
    retention: Retention = Retention()
    apps: Apps = Apps()
    tracking: Tracking = Tracking()
    provider_names: ProviderNames = {}


KINDS: dict[str, Any] = {
    "caps": dict[str, Cap],
    "dnd": QuietJson,
    "limits": Limits,
    "control": Control,
    "conversion": Conversion,
    "retention": Retention,
    "apps": Apps,
    "tracking": Tracking,
    "provider_names": ProviderNames,
}
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in KINDS.items()}  # made before there are threads


_OF_ACCOUNT = select(schema.policy.c.name, schema.policy.c.value).where(
    schema.policy.c.account_id == bindparam("account")
)


def load_policy(connection: Connection, account_id: str) -> Policy:
    """Return what the account has set; the defaults elsewhere."""
    return read_policy((name, value) for name, value in connection.execute(_OF_ACCOUNT, {"account": account_id}))


def read_policy(rows: Iterable[tuple[str, str]]) -> Policy:
    """Return the policies of these names and values, as they are stored."""
    return Policy(**{name: _DECODERS[name].decode(value) for name, value in rows if name in KINDS})


def set_policy(connection: Connection, account_id: str, name: str, value: str, now: float) -> None:
    """Check one policy and keep it. Raise Misconfigured when the JSON does not fit."""
    try:
        found = _DECODERS[name].decode(value)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{name} does not fit: {error}.") from None
    if name == "caps" and (unknown := sorted(set(found) - set(CHANNELS))):
        raise Misconfigured(f"{unknown[0]!r} is no channel; there are {', '.join(CHANNELS)}.")
    row = {"account_id": account_id, "name": name, "value": msgspec.json.encode(found).decode(), "changed_at": now}
    upsert_rows(connection, schema.policy, [row], keys=("account_id", "name"))


def clear_policy(connection: Connection, account_id: str, name: str) -> None:
    table = schema.policy
    connection.execute(delete(table).where(table.c.account_id == account_id, table.c.name == name))
