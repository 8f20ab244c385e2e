"""The story: people come in, an audience is asked for, a campaign goes out over three platforms, the numbers agree."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from conftest import Caller, Sandbox, people


def test_campaign_reaches_everybody_once(sending: Caller, sandbox: Sandbox) -> None:
    """Sixty people on three platforms get one message each; the vendors, the numbers and the events agree."""
    sending.upload(*people(60, wns_port=sandbox.port + 3))
    status, answer = sending.post(
        "/1/targets/create.json",
        {
            "name": "estimate",
            "estimate_only": True,
            "where": {},
            "content": {"title": "Hello", "body": "there"},
            "devices": ["android", "ios", "windows"],
            "when": "now",
        },
    )
    assert (status, answer) == (200, {"status": "success", "estimates": {"android": 20, "ios": 20, "windows": 20}})

    campaign = sending.create(content={"title": "Hi {{ Profile.Name }}", "body": "there"})

    result = sending.result(campaign)
    assert result == {"audience": 60, "sent": 60, "unknown": 0, "failed": 0, "suppressed": 0, "viewed": 0, "clicked": 0}
    counts = sandbox.counts()
    assert {vendor: counts[vendor]["accepted"] for vendor in ("fcm", "apns", "wns")} == {
        "fcm": 20,
        "apns": 20,
        "wns": 20,
    }
    assert all(one["duplicates"] == 0 for one in counts.values())
    now = datetime.now(ZoneInfo("Europe/Berlin"))
    days = {"from": int(f"{now - timedelta(days=1):%Y%m%d}"), "to": int(f"{now:%Y%m%d}")}
    question: dict[str, Any] = {"event_name": "Notification Sent"} | days
    question["event_properties"] = [{"name": "Campaign id", "value": campaign}]
    estimate = {"name": "sent to", "estimate_only": True, "where": question, "devices": ["android", "ios", "windows"]}
    estimate |= {"content": {"title": "Hello", "body": "there"}, "when": "now"}
    _, answer = sending.post("/1/targets/create.json", estimate)
    assert answer["estimates"] == {"android": 20, "ios": 20, "windows": 20}
    titles = {message["body"]["message"]["data"]["nt"] for message in sandbox.messages("fcm")}
    assert titles == {f"Hi Name {number}" for number in range(0, 60, 3)}
