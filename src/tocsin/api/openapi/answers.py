"""What answers hold. Routes write them as plain objects; the tests read every answer they get with these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

Number = int | float
Interval = tuple[float, float] | None


class Done(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """It is done."""

    status: Literal["success"]


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wrong, with the place in the request's JSON."""

    status: Literal["fail"]
    error: str
    code: (
        Annotated[
            int,
            Meta(
                description="CleverTap's where it documents one (21 no `to`, 73 `respect_frequency_caps`, 78 broken "
                "JSON, 84 recipients, 89 our fault), else the HTTP status; missing for «This target hasn't been "
                "completed»"
            ),
        ]
        | UnsetType
    ) = UNSET


class Queued(Done, frozen=True, kw_only=True):
    """The request is right, and is kept durably until it has been delivered."""

    message: str


class SkippedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that was not taken."""

    status: Literal["fail"]
    code: int
    error: str
    record: Any


class Uploaded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many records were taken, and which were not."""

    status: Literal["success", "partial", "fail"]
    processed: int
    unprocessed: list[SkippedRecord]


class CampaignMade(Done, frozen=True, kw_only=True):
    """id: of the campaign; missing with `estimate_only`. estimates: how many can be reached now, by platform."""

    id: int | UnsetType = UNSET
    estimates: dict[str, int]


class Stopped(Done, frozen=True, kw_only=True):
    """in_flight: recipients of a running campaign who are with the vendors, and not called back."""

    in_flight: int | UnsetType = UNSET


class Numbers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recipients: audience = sent + unknown + failed + suppressed, once all is over. Conversions where there is a
    goal."""

    sent: int
    clicked: int
    audience: int | UnsetType = UNSET
    unknown: int | UnsetType = UNSET
    failed: int | UnsetType = UNSET
    suppressed: int | UnsetType = UNSET
    viewed: int | UnsetType = UNSET
    machine_viewed: int | UnsetType = UNSET
    machine_clicked: int | UnsetType = UNSET
    missed: int | UnsetType = UNSET
    campaigns: int | UnsetType = UNSET
    converted: int | UnsetType = UNSET
    click_through: int | UnsetType = UNSET
    view_through: int | UnsetType = UNSET
    revenue: Number | UnsetType = UNSET


class CampaignResult(Done, frozen=True, kw_only=True):
    """The numbers of a completed campaign. suppressed_by: by reason. variants: the same numbers of each."""

    result: Numbers
    suppressed_by: dict[str, int] | UnsetType = UNSET
    variants: dict[str, Numbers] | UnsetType = UNSET


class ComparedGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group, whoever the draw gave to it."""

    group: str
    control: bool
    people: int
    converted: int
    rate: float | None
    rate_interval: Interval
    revenue: Number | UnsetType = UNSET
    revenue_per_person: float | UnsetType | None = UNSET


class ComparedDifference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By how much one group is above another."""

    group: str
    than: str
    rate: float | None
    rate_interval: Interval
    verdict: Literal["better", "worse", "undecided"]
    detectable: float
    says: str
    revenue_per_person: float | UnsetType | None = UNSET
    revenue_per_person_interval: Interval | UnsetType = UNSET
    revenue_verdict: Literal["better", "worse", "undecided"] | UnsetType = UNSET


class Compared(Done, frozen=True, kw_only=True):
    """Groups side by side. final: nothing of it changes any more."""

    confidence: float
    final: bool
    groups: list[ComparedGroup]
    differences: list[ComparedDifference]


class ListedTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign."""

    id: int
    name: str
    scheduled_on: Any
    status: str


class ListedTargets(Done, frozen=True, kw_only=True):
    """total_pages: where there is more than one."""

    targets: list[ListedTarget]
    total_pages: int | UnsetType = UNSET


class Named(Done, frozen=True, kw_only=True):
    """name: as it is kept."""

    name: str


class ListedSegment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A saved question. changed_at: in seconds."""

    name: str
    changed_at: int
    where: Any = UNSET


class ListedSegments(Done, frozen=True, kw_only=True):
    """One page."""

    segments: list[ListedSegment]
    total_pages: int


class ShownSegment(Done, frozen=True, kw_only=True):
    """One segment."""

    segment: ListedSegment


class WhyPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a question for one person. decides: had it been the other way, so might have been the answer."""

    what: str
    met: bool
    decides: bool
    parts: list[WhyPart] | UnsetType = UNSET


class Explanations(Done, frozen=True, kw_only=True):
    """With a person: whether they are `in`, where a message would reach them, and why. Without: the question in SQL,
    and what it costs."""

    in_: bool | UnsetType = field(name="in", default=UNSET)
    reachable: dict[str, bool] | UnsetType = UNSET
    why: WhyPart | UnsetType = UNSET
    sql: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET
    rows: dict[str, int] | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    count: int | UnsetType = UNSET


class PersonRecord(Done, frozen=True, kw_only=True):
    """One person."""

    record: dict[str, Any]


class Everything(Done, frozen=True, kw_only=True):
    """What is stored of one person. next_page: where there is more."""

    person: dict[str, Any]
    events: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    next_page: int | UnsetType = UNSET


class Deleted(Done, frozen=True, kw_only=True):
    """deleted: how many people that were."""

    deleted: int


class Leaving(Done, frozen=True, kw_only=True):
    """waiting: deleted people who still count in answers. settling: those who are erased once more later."""

    waiting: int
    settling: int


class ExportPage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cursor` answers a question; a cursor is answered with `records`, and `next_cursor` as long as there are more.
    Some failures have the HTTP status 200 and the status `fail`, as CleverTap has it."""

    status: Literal["success", "fail"]
    cursor: str | UnsetType = UNSET
    next_cursor: str | UnsetType = UNSET
    records: list[dict[str, Any]] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: int | UnsetType = UNSET


class CountAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status is `fail`, with HTTP status 200, for an event that nobody ever raised."""

    status: Literal["success", "fail"]
    count: int | UnsetType = UNSET
    last_processed_ts: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: int | UnsetType = UNSET


class GroupsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Beside the status the groups, by their names: of top.json `STR` and `NUMBER` with counts by value, of trends.json
    counts by period."""

    status: Literal["success", "fail"]
    error: str | UnsetType = UNSET
    code: int | UnsetType = UNSET


class ReportedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign of a report."""

    message_id: int = field(name="message id")
    message_name: str
    channel: str
    delivery: str
    start_date: str
    status: str
    sent: int
    viewed: int
    clicked: int
    conversion_event: str
    labels: list[str]
    device: list[str]


class Reported(Done, frozen=True, kw_only=True):
    """Campaigns by the day of their start."""

    total_results: int
    messages: list[ReportedMessage]


class TagGroups(Done, frozen=True, kw_only=True):
    """The numbers of the sends by tag group, and their sum."""

    tag_groups: dict[str, Numbers]
    total: dict[str, Number]


class Labels(Done, frozen=True, kw_only=True):
    """The numbers of campaigns by label."""

    labels: dict[str, Numbers]


class SuppressedAddresses(Done, frozen=True, kw_only=True):
    """One page."""

    suppressed: list[dict[str, Any]]
    total_pages: int


class Lifted(Done, frozen=True, kw_only=True):
    """users: how many have the address."""

    users: int


class WhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why somebody got a campaign or not: in a sentence (`verdict`), whether the question means them (`in`), where a
    message would reach them, what became of theirs, and what would in a run that is to come."""

    status: Literal["success"]
    verdict: str
    in_: bool = field(name="in")
    reachable: dict[str, bool]
    why: WhyPart
    explained_at: int
    messages: list[dict[str, Any]] | UnsetType = UNSET
    would: list[dict[str, Any]] | UnsetType = UNSET
    shown: dict[str, dict[str, Any]] | UnsetType = UNSET
    conversions: dict[str, Number] | UnsetType = UNSET


class SendWhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why somebody got the sends of a tag group or not: in a sentence (`verdict`), where a message would reach them,
    what became of theirs."""

    status: Literal["success"]
    verdict: str
    reachable: dict[str, bool]
    messages: list[dict[str, Any]] | UnsetType = UNSET
    queued: int | UnsetType = UNSET
    shown: dict[str, dict[str, Any]] | UnsetType = UNSET
    conversions: dict[str, Number] | UnsetType = UNSET


class Forecasted(Done, frozen=True, kw_only=True):
    """What would become of a campaign. minutes: how long it would take, or `unknown`."""

    forecast: dict[str, Any]
    minutes: Any
    pace: Any = UNSET


class SampledOutcomes(Done, frozen=True, kw_only=True):
    """Some people of each outcome."""

    outcomes: Any


class ShownTimeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Newest first. next_cursor: where there is more. The status is `fail`, with HTTP 200, for a wrong cursor."""

    status: Literal["success", "fail"]
    moments: list[dict[str, Any]] | UnsetType = UNSET
    next_cursor: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: int | UnsetType = UNSET


class AnyReport(Done, frozen=True, kw_only=True):
    """Rows of the columns asked for, and their sum. `format` csv or parquet is answered with a file instead."""

    by: list[str]
    rows: list[dict[str, Any]]
    total: dict[str, Number]
    earlier_total: dict[str, Number] | UnsetType = UNSET


class ShownWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint, and how it is. Times are seconds."""

    id: str
    url: str
    events: list[str]
    created_at: Any
    failing_since: Any
    failures: int
    answer: Any
    answered_at: Any
    disabled_at: Any
    replaying: bool


class WebhookMade(ShownWebhook, frozen=True, kw_only=True):
    """The endpoint, with its secret, which is shown this once."""

    status: Literal["success"]
    secret: str


class WebhookSecret(Done, frozen=True, kw_only=True):
    """A new secret, which is shown this once."""

    secret: str


class ListedWebhooks(Done, frozen=True, kw_only=True):
    """The endpoints of the account."""

    webhooks: list[ShownWebhook]


class WebhookTested(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came back. The status is `fail`, with HTTP status 200, when it did not arrive."""

    status: Literal["success", "fail"]
    webhook_id: str
    arrived: bool
    answer: str
