"""What every route of the API is for, takes and answers, in the order of the document."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.api.openapi import answers, requests
from tocsin.api.people import LeavingJson, SeparatingJson
from tocsin.api.reports import ReportsJson
from tocsin.api.segments import PageJson
from tocsin.api.subscriptions import LiftJson, SuppressedPageJson
from tocsin.api.unsupported import PATHS
from tocsin.api.webhooks import NamedWebhookJson, NewWebhookJson, ReplayJson
from tocsin.audience.query import WhereJson


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """name: what generated clients call it. says: one sentence. body, query: structs of what it takes. answer: the
    struct of its answer; None for what is not built. repeats: it may carry an Idempotency-Key. refuses: HTTP statuses
    beside those that any route may answer."""

    name: str
    topic: str
    says: str
    body: Any = None
    query: Any = None
    answer: Any = None
    repeats: bool = False
    refuses: tuple[int, ...] = ()


def _send(channel: str, what: str) -> Operation:
    return Operation(
        name=f"send_{channel}",
        topic="Send to people",
        says=f"Send {what} to up to 1,000 people by identity",
        body=requests.SENDS[channel],
        answer=answers.Queued,
        repeats=True,
    )


def _webhook(name: str, says: str, body: Any, answer: Any = answers.Done) -> dict[str, Operation]:
    return {
        "POST": Operation(name=f"{name}_webhook", topic="Webhooks", says=says, body=body, answer=answer, refuses=(404,))
    }


def _count(name: str, says: str, body: Any, answer: Any) -> dict[str, Operation]:
    return {
        "POST": Operation(name=name, topic="Counts", says=says, body=body, answer=answer),
        "GET": Operation(
            name=f"{name}_partial",
            topic="Counts",
            says="Refused: every question is answered at once",
            query=requests.PartialQuery,
            refuses=(400,),
        ),
    }


def _export(name: str, what: str) -> dict[str, Operation]:
    shared: dict[str, Any] = {"topic": "Read back", "query": requests.PageQuery, "answer": answers.ExportPage}
    return {
        "POST": Operation(name=f"export_{name}", says=f"Ask for {what}: a cursor", body=WhereJson, **shared),
        "GET": Operation(name=f"read_{name}", says=f"Read {what}, a page by each cursor", **shared),
    }


CAMPAIGNS, SEGMENTS, PEOPLE, NUMBERS = "Campaigns", "Segments", "People", "Numbers"
# By path, then by method; HEAD does what GET does.
OPERATIONS: dict[str, dict[str, Operation]] = {
    "/1/targets/create.json": {
        "POST": Operation(
            name="create_campaign",
            topic=CAMPAIGNS,
            says="Make a campaign, or with `estimate_only` count whom it would reach",
            body=requests.Campaign,
            answer=answers.CampaignMade,
            repeats=True,
        )
    },
    "/1/send/push.json": {"POST": _send("push", "a push")},
    "/1/send/email.json": {"POST": _send("email", "an e-mail")},
    "/1/send/sms.json": {"POST": _send("sms", "a text message")},
    "/1/send/webpush.json": {"POST": _send("webpush", "a web push")},
    "/1/targets/stop.json": {
        "POST": Operation(
            name="stop_campaign",
            topic=CAMPAIGNS,
            says="Stop a scheduled or running campaign",
            body=requests.CampaignId,
            answer=answers.Stopped,
        )
    },
    "/1/targets/result.json": {
        "POST": Operation(
            name="read_result",
            topic=CAMPAIGNS,
            says="Read the numbers of a completed campaign",
            body=requests.CampaignId,
            answer=answers.CampaignResult,
        )
    },
    "/1/targets/compare.json": {
        "POST": Operation(
            name="compare_variants",
            topic=CAMPAIGNS,
            says="Compare variants and control group, with how sure the differences are",
            body=requests.CampaignId,
            answer=answers.Compared,
        )
    },
    "/1/targets/list.json": {
        "POST": Operation(
            name="list_campaigns",
            topic=CAMPAIGNS,
            says="List campaigns by the days they are due",
            body=requests.DueDays,
            answer=answers.ListedTargets,
        )
    },
    "/1/targets/why.json": {
        "POST": Operation(
            name="read_why",
            topic=CAMPAIGNS,
            says="Say why somebody got a campaign or not",
            body=requests.WhyAsked,
            answer=answers.WhyAnswer,
        )
    },
    "/1/send/why.json": {
        "POST": Operation(
            name="read_send_why",
            topic="Send to people",
            says="Say why somebody got the sends of a tag group or not",
            body=requests.SendWhyAsked,
            answer=answers.SendWhyAnswer,
        )
    },
    "/1/targets/forecast.json": {
        "POST": Operation(
            name="forecast_campaign",
            topic=CAMPAIGNS,
            says="Foresee what would become of a campaign now",
            body=requests.ForecastAsked,
            answer=answers.Forecasted,
        )
    },
    "/1/targets/sample.json": {
        "POST": Operation(
            name="sample_outcomes",
            topic=CAMPAIGNS,
            says="Read some people of each outcome",
            body=requests.SampleAsked,
            answer=answers.SampledOutcomes,
        )
    },
    "/1/upload": {
        "POST": Operation(
            name="upload",
            topic=PEOPLE,
            says="Upload up to 1,000 profiles, events and device tokens",
            body=requests.UploadRecords,
            query=requests.UploadQuery,
            answer=answers.Uploaded,
            repeats=True,
        )
    },
    "/1/subscribe": {
        "POST": Operation(
            name="subscribe",
            topic=PEOPLE,
            says="Let addresses leave, or come back",
            body=requests.AddressRecords,
            answer=answers.Uploaded,
        )
    },
    "/1/suppressions/list.json": {
        "POST": Operation(
            name="list_suppressions",
            topic=PEOPLE,
            says="List addresses that get nothing, and why",
            body=SuppressedPageJson,
            answer=answers.SuppressedAddresses,
        )
    },
    "/1/suppressions/lift.json": {
        "POST": Operation(
            name="lift_suppression",
            topic=PEOPLE,
            says="Let an address that bounced get mail again",
            body=LiftJson,
            answer=answers.Lifted,
            refuses=(404,),
        )
    },
    "/1/delete/profiles.json": {
        "POST": Operation(
            name="delete_people",
            topic=PEOPLE,
            says="Delete everything about up to 100 people",
            body=LeavingJson,
            answer=answers.Deleted,
        ),
        "GET": Operation(
            name="read_deletions",
            topic=PEOPLE,
            says="Read how many deleted people still count in answers",
            answer=answers.Leaving,
        ),
    },
    "/1/demerge/profiles.json": {
        "POST": Operation(
            name="demerge_people",
            topic=PEOPLE,
            says="Take identities from people who have others as well",
            body=SeparatingJson,
            answer=answers.Uploaded,
        )
    },
    "/1/disassociate": {
        "POST": Operation(
            name="disassociate_phones",
            topic=PEOPLE,
            says="Take phone numbers from everybody who has them",
            body=requests.PhoneRecords,
            answer=answers.Uploaded,
        )
    },
    "/1/segments/save.json": {
        "POST": Operation(
            name="save_segment",
            topic=SEGMENTS,
            says="Keep a question by a name",
            body=requests.SegmentToSave,
            answer=answers.Named,
        )
    },
    "/1/segments/list.json": {
        "POST": Operation(
            name="list_segments",
            topic=SEGMENTS,
            says="List the saved questions",
            body=PageJson,
            answer=answers.ListedSegments,
        )
    },
    "/1/segments/get.json": {
        "POST": Operation(
            name="read_segment",
            topic=SEGMENTS,
            says="Read one saved question",
            body=requests.SegmentName,
            answer=answers.ShownSegment,
        )
    },
    "/1/segments/delete.json": {
        "POST": Operation(
            name="delete_segment",
            topic=SEGMENTS,
            says="Forget one saved question",
            body=requests.SegmentName,
            answer=answers.Done,
        )
    },
    "/1/segments/explain.json": {
        "POST": Operation(
            name="explain",
            topic=SEGMENTS,
            says="Say why a person is meant by a question or is not; or what the question costs",
            body=requests.Explained,
            answer=answers.Explanations,
        )
    },
    "/1/profile.json": {
        "GET": Operation(
            name="read_person",
            topic="Read back",
            says="Read one person, by one identity",
            query=requests.PersonQuery,
            answer=answers.PersonRecord,
            refuses=(404,),
        )
    },
    "/1/profile/timeline.json": {
        "POST": Operation(
            name="read_timeline",
            topic="Read back",
            says="Read what happened to one person, newest first",
            body=requests.TimelineAsked,
            answer=answers.ShownTimeline,
        )
    },
    "/1/person.json": {
        "GET": Operation(
            name="read_everything",
            topic="Read back",
            says="Read everything about one person, page by page",
            query=requests.EverythingQuery,
            answer=answers.Everything,
            refuses=(404,),
        )
    },
    "/1/profiles.json": _export("people", "people"),
    "/1/events.json": _export("events", "events"),
    "/1/counts/profiles.json": _count("count_people", "Count people", WhereJson, answers.CountAnswer),
    "/1/counts/events.json": _count("count_events", "Count events", WhereJson, answers.CountAnswer),
    "/1/counts/top.json": _count("rank_values", "Count the values of properties", requests.Top, answers.GroupsAnswer),
    "/1/counts/trends.json": _count(
        "count_by_period", "Count events by day, week or month", requests.Trends, answers.GroupsAnswer
    ),
    "/1/now.json": {
        "POST": Operation(
            name="count_active",
            topic="Counts",
            says="Count who did something in the last five minutes",
            body=requests.Nothing,
            answer=answers.CountAnswer,
        )
    },
    "/1/reports.json": {
        "POST": Operation(
            name="read_report",
            topic=NUMBERS,
            says="Read numbers by any columns",
            body=ReportsJson,
            answer=answers.AnyReport,
        )
    },
    "/1/message/report.json": {
        "POST": Operation(
            name="report_campaigns",
            topic=NUMBERS,
            says="Read the campaigns of some days with their numbers",
            body=requests.ReportDays,
            answer=answers.Reported,
        )
    },
    "/1/tag_groups.json": {
        "GET": Operation(
            name="read_tag_groups", topic=NUMBERS, says="Read the numbers of every tag group", answer=answers.TagGroups
        )
    },
    "/1/labels.json": {
        "GET": Operation(
            name="read_labels",
            topic=NUMBERS,
            says="Read the numbers of the campaigns of each label",
            answer=answers.Labels,
        )
    },
    "/1/webhooks/create.json": _webhook("create", "Let events be posted to a URL", NewWebhookJson, answers.WebhookMade),
    "/1/webhooks/list.json": _webhook("list", "List the endpoints", requests.Nothing, answers.ListedWebhooks),
    "/1/webhooks/remove.json": _webhook("remove", "Remove an endpoint", NamedWebhookJson),
    "/1/webhooks/rotate.json": _webhook("rotate", "Make a new secret", NamedWebhookJson, answers.WebhookSecret),
    "/1/webhooks/enable.json": _webhook("enable", "Let a disabled endpoint go on", NamedWebhookJson),
    "/1/webhooks/test.json": _webhook("test", "Post an empty batch", NamedWebhookJson, answers.WebhookTested),
    "/1/webhooks/replay.json": _webhook("replay", "Post again what was stored between two times", ReplayJson),
    **{
        path: {
            "POST": Operation(
                name="not_built" + path.removesuffix(".json").replace("/", "_"),
                topic="Not built",
                says="Not built: nothing is done, and the answer is 404",
                refuses=(404,),
            )
        }
        for path in PATHS
    },
}
