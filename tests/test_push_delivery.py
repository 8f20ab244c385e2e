"""Long and heavy messages on their way: what each strict vendor got, and what was never sent."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import pytest
from conftest import Caller, Sandbox, people, token, wait_for

from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Push
from tocsin.providers.fcm import Fcm
from tocsin.providers.transport import Transport

BODY = 'Grüße & <Küsse> "aus" der Schweiz 🇨🇭, ' * 200


def send(caller: Caller, content: dict[str, Any], *names: str) -> dict[str, int]:
    """Sends to these identities; the numbers once everything is settled."""
    body = {"to": {"Identity": list(names)}, "tag_group": "long", "content": content}
    assert caller.post("/1/send/push.json", body)[0] == 200

    def ask() -> dict[str, int] | None:
        group: dict[str, int] | None = caller.get("/1/tag_groups.json")[1]["tag_groups"].get("long")
        parts = ("sent", "unknown", "failed", "suppressed")
        whole = group and group["audience"] == len(names) == sum(group[part] for part in parts)
        return group if whole else None

    return wait_for(ask)


def test_a_long_body_is_shortened_for_each_vendor(sending: Caller, sandbox: Sandbox) -> None:
    """Every vendor takes the message, and shows the beginning of the text with an ellipsis."""
    sending.upload(*people(3, wns_port=sandbox.port + 3))
    numbers = send(sending, {"title": "Hi {{ Profile.Name }}", "body": BODY}, "user-0", "user-1", "user-2")

    assert numbers["sent"] == 3, numbers
    data = sandbox.messages("fcm")[0]["body"]["message"]["data"]
    alert = sandbox.messages("apns")[0]["body"]["aps"]["alert"]
    assert (data["nt"], alert["title"]) == ("Hi Name 0", "Hi Name 1")
    for shown in (data["nm"], alert["body"]):
        assert BODY.startswith(shown.removesuffix("…"))
        assert 3000 < len(shown.encode()) < 4096
    assert "Grüße &amp; &lt;Küsse&gt;" in str(sandbox.messages("wns")[0]["body"])


def test_a_heavy_profile_is_refused_alone(sending: Caller, sandbox: Sandbox) -> None:
    """A profile that makes a key too large is that recipient's failure before any request; the others get theirs."""
    sending.upload(*people(6, wns_port=sandbox.port + 3))
    for number in range(3):
        data = {"Long": "x" * 500}
        sending.upload({"type": "profile", "identity": f"user-{number}", "profileData": data})
    key = "{{ Profile.Long }}" * 11
    blocks = {platform: {"key": key} for platform in ("android", "ios", "windows")}
    content = {"title": "t", "body": "b", "platform_specific": blocks}
    numbers = send(sending, content, *(f"user-{number}" for number in range(6)))

    assert (numbers["sent"], numbers["failed"]) == (3, 3)
    for vendor in ("fcm", "apns", "wns"):
        counts = sandbox.counts()[vendor]
        assert (counts["accepted"], counts["refused"]) == (1, 0)


@pytest.mark.parametrize("style", ["sdk", "notification"])
async def test_the_style_is_a_setting_of_the_provider(sandbox: Sandbox, style: Literal["sdk", "notification"]) -> None:
    """`tocsin provider set fcm --style notification` is for apps without CleverTap's SDK; a strict FCM takes both."""
    given = sandbox.control.get("/credentials")[1]
    settings = Fcm.Settings(
        service_account=json.dumps(given["fcm"]["service_account"]),
        endpoint=given["fcm"]["endpoint"],
        ca=given["ca"],
        style=style,
    )
    message = Push(
        id="1b671a64-40d5-491e-99b0-da01ff1f3341",
        collapse="tocsin-7",
        address=Address("fcm", token("fcm", "someone")),
        title="Hello",
        body="there",
        channel="news",
        sound="default",
        data={"wzrk_id": "7_20270115", "wzrk_pid": style},
        expires_at=int(time.time()) + 600,
    )
    async with Transport() as transport:
        came = await Fcm(settings, transport).send(message, time.time())
    assert came.outcome is Outcome.ACCEPTED, came
    body = sandbox.messages("fcm")[0]["body"]["message"]
    assert ("notification" in body, "wzrk_pn" in body["data"]) == (style == "notification", style == "sdk")
