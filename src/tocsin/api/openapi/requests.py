"""What requests hold, as structs: those the routes read with, and beside them what is read by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from tocsin.api.exports import MOST
from tocsin.api.reports import ReportJson
from tocsin.api.segments import PERSON
from tocsin.api.tallies import TopJson, TrendsJson
from tocsin.api.targets import TargetsPageJson
from tocsin.api.why import SampleSizeJson, SendsJson, TimelineJson
from tocsin.audience.query import WhereJson
from tocsin.campaign.addressees import TO_LIMIT
from tocsin.campaign.schedule import LaterJson, NowJson, RecurringJson, ScheduleJson
from tocsin.campaign.send import NOT_YET, SendJson
from tocsin.campaign.spec import CampaignJson, Devices
from tocsin.ingest import RECORDS

Block = dict[str, Any]
Identity = str | int
Those = Annotated[list[Identity], Meta(max_length=TO_LIMIT)]
Day = Annotated[
    Annotated[int, Meta(ge=19700101, le=20991231)] | Annotated[str, Meta(pattern="^[0-9]{8}$")],
    Meta(description="YYYYMMDD, in the account's time zone", examples=[20261231]),
]


def join(name: str, says: str, /, *parts: type[msgspec.Struct], without: tuple[str, ...] = (), **more: Any) -> Any:
    """Return one struct with the fields of several. more: further fields, or others of that name: a type, or a type and
    a default."""
    fields: dict[str, Any] = {}
    for part in parts:
        for one in msgspec.structs.fields(part):
            default = field(name=one.encode_name, default=one.default) if not one.required else one.encode_name
            if one.default_factory is not msgspec.NODEFAULT:
                default = field(name=one.encode_name, default_factory=one.default_factory)
            fields[one.name] = (one.type,) if one.required else (one.type, default)
    for key, kind in more.items():
        fields[key] = kind if isinstance(kind, tuple) else (kind,)
    kept = [(key, *kind) for key, kind in fields.items() if key not in without]
    return msgspec.defstruct(name, kept, kw_only=True, frozen=True, namespace={"__doc__": says})


class PlatformBlocks(msgspec.Struct, frozen=True):
    """Key-value pairs, links and pictures of one platform each. Whatever is not known reaches the app as it is."""

    android: Block | UnsetType = UNSET
    ios: Block | UnsetType = UNSET
    windows: Block | UnsetType = UNSET


class PushContent(msgspec.Struct, frozen=True):
    """A push. Its texts are Liquid templates."""

    title: str
    body: str
    platform_specific: PlatformBlocks | UnsetType = UNSET


class MailContent(msgspec.Struct, frozen=True):
    """An e-mail; the body is HTML. Its texts are Liquid templates."""

    subject: str
    body: str
    sender_name: str | UnsetType = UNSET
    reply_to: str | UnsetType = UNSET


class SmsContent(msgspec.Struct, frozen=True):
    """A text message, a Liquid template."""

    body: str


class BrowserContent(msgspec.Struct, frozen=True):
    """A web push. Its texts are Liquid templates. platform_specific: by browser."""

    title: str
    body: str
    platform_specific: dict[str, Block] | UnsetType = UNSET


class SendRecipients(msgspec.Struct, frozen=True):
    """Whom a message is for, by one or more kinds of identity; at most 1,000 together."""

    FBID: Those | UnsetType = UNSET
    GPID: Those | UnsetType = UNSET
    Email: Those | UnsetType = UNSET
    Identity: Those | UnsetType = UNSET
    objectId: Those | UnsetType = UNSET


CONTENTS: dict[str, type[msgspec.Struct]] = {
    "push": PushContent,
    "email": MailContent,
    "sms": SmsContent,
    "webpush": BrowserContent,
}
# A union of structs that no field tells apart: msgspec does not read one, and here it is only shown.
AnyContent: Any = Annotated[
    Any,
    Meta(
        description="By `target_mode`. Left out where `variants` have it.",
        extra_json_schema={"anyOf": [{"$ref": f"#/components/schemas/{one.__name__}"} for one in CONTENTS.values()]},
    ),
]
SENDS = {
    channel: join(
        f"Send{kind.__name__.removesuffix('Content')}",
        f"A message ({channel}) to people by name. `on_crash`, `track_opens` and `track_clicks` are Tocsin's own.",
        SendJson,
        without=NOT_YET,
        to=SendRecipients,
        content=kind,
        respect_frequency_caps=(bool, True),
    )
    for channel, kind in CONTENTS.items()
}
Campaign = join(
    "Campaign",
    "A campaign. `where` or `segment` says to whom: `{}` is everybody. `devices` is for pushes. `variants`, "
    "`frequency_cap`, `on_crash`, `track_opens` and `track_clicks` are Tocsin's own; ttl is in minutes.",
    CampaignJson,
    ScheduleJson,
    name=Annotated[str, Meta(description="What the dashboard calls it")],
    where=(WhereJson | UnsetType, UNSET),
    segment=(Any, UNSET),
    content=(AnyContent, UNSET),
    devices=(Devices | UnsetType, UNSET),
    when=Annotated[
        str | NowJson | LaterJson | RecurringJson,
        Meta(description="`now`, `YYYYMMDD HH:MM` in the account's time zone, or an object", examples=["now"]),
    ],
)


class CampaignId(msgspec.Struct, frozen=True):
    """Names a campaign."""

    id: Annotated[int, Meta(gt=0)] | Annotated[str, Meta(pattern="^[0-9]{1,10}$")]


ForecastAsked = join(
    "ForecastAsked",
    "The `id` of a campaign that is to come, and nothing else; or a campaign as `create.json` takes it.",
    Campaign,
    id=(int | UnsetType, UNSET),
    name=(str | UnsetType, UNSET),
    when=(Any, UNSET),
)


class FromTo(msgspec.Struct, frozen=True, kw_only=True):
    """From one day to another, both included."""

    from_: Day = field(name="from")
    to: Day


DueDays = join("DueDays", "Campaigns that are due on these days, by pages.", FromTo, TargetsPageJson)
ReportDays = join("ReportDays", "Campaigns of these days, and which of them.", FromTo, ReportJson)


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """One record. At least one identity; `ts` in seconds, else now."""

    identity: Identity | UnsetType = UNSET
    objectId: str | UnsetType = UNSET
    FBID: Identity | UnsetType = UNSET
    GPID: Identity | UnsetType = UNSET
    ts: int | str | UnsetType = UNSET


class UploadProfile(UploadRecord, frozen=True, kw_only=True, tag="profile"):
    """What is known of a person. A value may be an operation: {"$add": […]}, {"$incr": 1}, {"$delete": 1}, …"""

    profileData: dict[str, Any]


class UploadEvent(UploadRecord, frozen=True, kw_only=True, tag="event"):
    """Something a person did."""

    evtName: str
    evtData: dict[str, Any] | UnsetType = UNSET


class TokenData(msgspec.Struct, frozen=True):
    """A device's push token. type: fcm, apns, wns, chrome, firefox or safari. keys: of a browser's subscription."""

    id: str
    type: str
    keys: dict[str, str] | UnsetType = UNSET


class UploadToken(UploadRecord, frozen=True, kw_only=True, tag="token"):
    """Where a device is reached; it is named by its objectId."""

    tokenData: TokenData


class UploadRecords(msgspec.Struct, frozen=True):
    """Profiles, events and device tokens."""

    d: Annotated[list[UploadProfile | UploadEvent | UploadToken], Meta(max_length=RECORDS)]


class AddressRecord(msgspec.Struct, frozen=True):
    """An address that leaves, or comes back, for every profile that has it."""

    type: Literal["email", "phone"]
    value: str
    status: Literal["Unsubscribe", "Resubscribe"]


class AddressRecords(msgspec.Struct, frozen=True):
    """Addresses."""

    d: Annotated[list[AddressRecord], Meta(max_length=RECORDS)]


class PhoneRecord(msgspec.Struct, frozen=True):
    """A phone number that is taken from everybody who has it."""

    type: Literal["phone"]
    value: str


class PhoneRecords(msgspec.Struct, frozen=True):
    """Phone numbers."""

    d: Annotated[list[PhoneRecord], Meta(min_length=1, max_length=RECORDS)]


class SegmentName(msgspec.Struct, frozen=True):
    """Names a segment."""

    name: Annotated[str, Meta(min_length=1)]


class SegmentToSave(SegmentName, frozen=True):
    """A question and its name."""

    where: WhereJson


Person: dict[str, Any] = dict.fromkeys(PERSON, (Identity | UnsetType, UNSET))
WhyAsked = join("WhyAsked", "A campaign and a person, by one identity.", CampaignId, **Person)
SendWhyAsked = join("SendWhyAsked", "A tag group of sends, and a person, by one identity.", SendsJson, **Person)
SampleAsked = join("SampleAsked", "A campaign, and how many people of each outcome.", CampaignId, SampleSizeJson)
TimelineAsked = join(
    "TimelineAsked",
    "A person, by one identity; or the cursor of the page before.",
    TimelineJson,
    cursor=(str | UnsetType, UNSET),
    **Person,
)
Explained = join(
    "Explained",
    "A question, as `where` or by its name as `segment`, and the person whom it is about. Without one: what it costs.",
    where=(WhereJson | UnsetType, UNSET),
    segment=(str | UnsetType, UNSET),
    **Person,
)
Top = join("Top", "Events, and the properties whose values are counted.", WhereJson, TopJson)
Trends = join("Trends", "Events, and by what time they are counted.", WhereJson, TrendsJson)


class Nothing(msgspec.Struct, frozen=True):
    """An empty object; what stands in it is not looked at."""


class UploadQuery(msgspec.Struct, frozen=True):
    dryRun: Annotated[Literal["0", "1"], Meta(description="1 only checks, and stores nothing")] | UnsetType = UNSET


class PersonQuery(msgspec.Struct, frozen=True):
    """One of them."""

    identity: str | UnsetType = UNSET
    email: str | UnsetType = UNSET
    objectId: str | UnsetType = UNSET
    FBID: str | UnsetType = UNSET
    GPID: str | UnsetType = UNSET


class EverythingQuery(PersonQuery, frozen=True):
    page: Annotated[int, Meta(ge=1, le=999_999)] = 1


class PageQuery(msgspec.Struct, frozen=True):
    cursor: Annotated[str, Meta(description="of the answer before: the next page")] | UnsetType = UNSET
    query: Annotated[str, Meta(description="the question as JSON, instead of the body")] | UnsetType = UNSET
    batch_size: Annotated[int, Meta(ge=1, le=MOST, description="records of a page")] = 100
    app: bool = True
    profile: bool = True
    events: bool = False


class PartialQuery(msgspec.Struct, frozen=True):
    req_id: str | UnsetType = UNSET
