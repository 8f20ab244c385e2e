"""A campaign as it is asked for: the body of a create request, read into a `Spec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from tocsin.account import Account
from tocsin.audience.condition import PARSE
from tocsin.audience.node import Query
from tocsin.audience.query import Segments, find_segment, read_where
from tocsin.campaign.goal import REVENUE, Goal, GoalJson, to_goal
from tocsin.campaign.schedule import When, begins_at, read_schedule
from tocsin.channels import CHANNELS
from tocsin.content import Content, read_content
from tocsin.errors import Invalid, Problem, read_struct
from tocsin.policy import Cap
from tocsin.providers.credential import require_named

Device = Literal["android", "ios", "windows"]
DEVICES: tuple[Device, ...] = get_args(Device)
Devices: Any = Annotated[list[Device], Meta(min_length=1, extra={"is": f"a list of {', '.join(DEVICES)}"})]
Minutes = Annotated[float, Meta(gt=0, le=40_320)]  # four weeks
NAME_BYTES = 512
LABELS = 50
LABEL_BYTES = 120
SPEC_BYTES = 2 * 1024 * 1024  # of a campaign as the ledger keeps it; each of its chunks is planned with all of it
GROUPS = 50  # as many as CleverTap has
GroupName = Annotated[str, Meta(min_length=1, max_length=120)]
LEAST_USERS = 100  # that a limit may leave, as in CleverTap
LATEST_ID = 2**31 - 1
VARIANTS = 8
OnCrash = Literal["report", "resend"]
# Fields of the real service that narrow an audience or hold a message back. Ignored, they would send to more people or
# sooner than was asked, so until they are built they are refused by name. Any other unknown field is kept, unread.
NOT_YET = (
    *("upper_cap_for_target_segment", "provider_group_nickname"),
    *("draft", "users_limit"),
)


class Variant(msgspec.Struct, frozen=True):
    """One content of several, and the percent of the audience that gets it."""

    name: str
    content: Content
    percentage: float


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign keeps of its request as it was sent.

    send_to_every_profile: a mailbox or number that several profiles have gets a message for each of them, not one.
    subscription_groups: who left one of them gets nothing; of mails alone.
    frequency_cap: so often one user gets it, over all its runs. track_opens, track_clicks: what its mails report, where
        the account's policy allows it. on_crash: what becomes of a message nobody knows about,
        sent or not: "report" it as unknown, or "resend" it under the same collapse key, so that a second copy replaces
        the first on the screen.
    """

    labels: Annotated[tuple[str, ...], Meta(max_length=LABELS)] = ()
    respect_frequency_caps: bool = True
    send_to_all_devices: bool = False
    send_to_every_profile: bool = False
    subscription_groups: Annotated[tuple[GroupName, ...], Meta(max_length=GROUPS)] = ()
    frequency_cap: Cap | None = None
    respect_throttle: bool = False
    track_opens: bool = True
    track_clicks: bool = True
    on_crash: OnCrash = "report"


class Spec(Choices, frozen=True, kw_only=True):
    """A campaign as it was asked for: a snapshot, so that nothing edited later reaches a running one.

    due_at: epoch seconds, when the first run begins, not before it was asked for. platforms: what a recipient can be
        on, of android, ios, windows, email. message_seconds: how long after the run begins a message may still be sent.
    users_limit: to so many users at most in all its runs together. users_limit_per_run: in each of them.
    """

    name: str
    channel: str
    where: Query
    content: Content
    platforms: tuple[str, ...]
    due_at: float
    control_percentage: float = 0.0
    system_control_group: bool = True
    variants: tuple[Variant, ...] = ()
    conversion_goal: Goal | None = None
    message_seconds: float | None = None
    when: When | None = None
    users_limit: int | None = None
    users_limit_per_run: int | None = None

    def limit_run(self, taken: int = 0) -> int | None:
        """Return how many users a run may have at most, `taken` of them having been in earlier runs; None: all."""
        left = None if self.users_limit is None else max(0, self.users_limit - taken)
        limits = [one for one in (left, self.users_limit_per_run) if one is not None]
        return min(limits, default=None)

    @property
    def contents(self) -> list[tuple[str, Content]]:
        """What is said, by variant; under "" where there are none."""
        return [(one.name, one.content) for one in self.variants] or [("", self.content)]


# Made here, before there are threads: msgspec lets a second thread use a type that a first one has half looked at.
_STORED = msgspec.json.Decoder(Spec)


class VariantJson(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=16)]
    percentage: Annotated[float, Meta(gt=0, lt=100)]
    content: Any = None


class ControlJson(msgspec.Struct, frozen=True, tag_field="type", tag="campaign"):
    percentage: Annotated[float, Meta(ge=2, le=99)]


class CustomControlJson(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    name: Any = None


class TtlJson(msgspec.Struct, frozen=True):
    ttl_type: Literal["relative"]
    value: Minutes | None = None


class CampaignJson(Choices, frozen=True, kw_only=True):
    """The fields of a create request that no other module reads; any other field is kept, unread.

    variants, frequency_cap, on_crash: our own fields. ttl: minutes. skip_estimate, estimate_only: for the API.
    """

    name: str | None = None
    target_mode: str = "push"
    variants: Annotated[tuple[VariantJson, ...], Meta(min_length=2, max_length=VARIANTS)] | None = None
    control_group: ControlJson | CustomControlJson | None = None
    system_control_group_include: bool = True
    conversion_goal: GoalJson | None = None
    ttl: Annotated[Minutes | TtlJson | None, Meta(extra={"is": "between 1 and 40320 minutes"})] = None
    users_limit_overall: Annotated[int, Meta(ge=LEAST_USERS, lt=2**32)] | None = None
    users_limit_per_run: Annotated[int, Meta(ge=LEAST_USERS, lt=2**32)] | None = None
    skip_estimate: bool = False
    estimate_only: bool = False

    def __post_init__(self) -> None:
        cap = self.frequency_cap
        if cap is not None and (cap.throttle is not None or (cap.most is None and cap.dwell_minutes is None)):
            raise Invalid("frequency_cap has most and days, or dwell_minutes", ".frequency_cap")
        for index, label in enumerate(self.labels):
            if not 0 < len(label.encode()) <= LABEL_BYTES:
                raise Invalid(f"a label must be a text of 1 to {LABEL_BYTES} bytes", f".labels[{index}]")


def read_spec(
    body: Mapping[str, Any],
    account: Account,
    now: float,
    segments: Segments | None = None,
    *,
    require_channel: bool = False,
    unsubscribe_link: bool = True,
    revenue: Mapping[str, str] = REVENUE,
    providers: Mapping[str, str] | None = None,
) -> Spec:
    """Return the campaign of a create request; `segments` are the saved ones it may name, `revenue` the property of an
    event that says what it is worth, and `providers` what `find_named` returned. Raise Problem, of name, content, when
    and where in this order, which is the documented one."""
    asked = read_struct(body, CampaignJson)
    name, channel = (asked.name or "").strip(), asked.target_mode.lower()
    if not name:
        raise Problem("Field name is empty")
    if len(name.encode()) > NAME_BYTES:
        raise Problem(f"name is longer than {NAME_BYTES} bytes (at $.name)")
    if channel not in CHANNELS:
        raise Problem(f"target_mode must be one of {', '.join(CHANNELS)} (at $.target_mode)")
    if asked.subscription_groups and channel != "email":
        raise Problem("subscription_groups are groups of e-mail; leave them out (at $.subscription_groups)")
    rules = {"require_channel": require_channel, "unsubscribe_link": unsubscribe_link}
    variants = _read_variants(asked.variants or (), channel, rules)
    content = variants[0].content if variants else None
    if content is None:
        content = read_content(body.get("content"), channel, **rules)
    when = read_schedule(body, account.zone, now)
    query = _read_audience(body, segments or {})
    for field in NOT_YET:
        if body.get(field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    platforms = _read_devices(body.get("devices")) if channel == "push" else (channel,)
    require_named(body.get("provider_nick_name"), providers or {}, platforms)
    limit = asked.ttl.value if isinstance(asked.ttl, TtlJson) else asked.ttl
    spec = Spec(
        **{kept: getattr(asked, kept) for kept in Choices.__struct_fields__},
        name=name,
        channel=channel,
        where=query,
        content=content,
        platforms=platforms,
        due_at=max(now, begins_at(when.times[0], when, account.zone)),
        control_percentage=_read_control(asked.control_group),
        system_control_group=asked.system_control_group_include,
        variants=variants,
        conversion_goal=to_goal(asked.conversion_goal, revenue) if asked.conversion_goal else None,
        message_seconds=None if limit is None else limit * 60,
        when=when,
        users_limit=asked.users_limit_overall,
        users_limit_per_run=asked.users_limit_per_run,
    )
    if (size := len(msgspec.json.encode(spec))) > SPEC_BYTES:
        raise Problem(f"The campaign has {size} bytes as it is kept; at most {SPEC_BYTES} are allowed (at $)")
    return spec


def _read_audience(body: Mapping[str, Any], segments: Segments) -> Query:
    if "segment" in body:
        if "where" in body:
            raise Problem("Send where or segment, not both (at $.segment)")
        return find_segment(body["segment"], segments, "$.segment")
    if "where" not in body:
        raise Problem(PARSE)
    return read_where(body["where"], segments)


def _read_devices(devices: Any) -> tuple[str, ...]:
    named = read_struct(devices, Devices, "$.devices")
    return tuple(device for device in DEVICES if device in named)


def _read_control(group: ControlJson | CustomControlJson | None) -> float:
    """Return the percent of a campaign's own control group. Raise Problem for a custom group, in the documented
    words."""
    if isinstance(group, CustomControlJson):
        raise Problem(f"No custom control group with name {str(group.name)[:100]} is defined")
    return group.percentage if group else 0.0


def read_encoded_spec(encoded: bytes, *given: Any, **rules: Any) -> Spec:
    """Return what `read_spec` does for a body that is JSON: megabytes are told to another process as one text, where
    pickling each part of them would hold up everybody for a tenth of a second."""
    return read_spec(msgspec.json.decode(encoded), *given, **rules)


def _read_content(content: Any, channel: str, rules: Mapping[str, bool], place: str) -> Content:
    """Return a content that stands at a place of its own. Raise Problem with that place."""
    try:
        return read_content(content, channel, **rules)
    except Problem as problem:
        text = problem.error.replace("(at $.content", f"(at {place}").replace("(inside content)", f"(inside {place})")
        raise Problem(text, code=problem.code, status=problem.status) from None


def _read_variants(those: Sequence[VariantJson], channel: str, rules: Mapping[str, bool]) -> tuple[Variant, ...]:
    """Return the variants. Raise Problem when two have one name, or they do not sum to 100 percent."""
    found: list[Variant] = []
    for index, one in enumerate(those):
        if one.name in [other.name for other in found]:
            raise Problem(f"a variant needs a name of its own (at $.variants[{index}].name)")
        content = _read_content(one.content, channel, rules, f"$.variants[{index}].content")
        found.append(Variant(one.name, content, one.percentage))
    if found and abs(sum(one.percentage for one in found) - 100) > 1e-6:
        raise Problem("the percentages of the variants must sum to 100 (at $.variants)")
    return tuple(found)
