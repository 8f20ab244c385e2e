"""`tocsin demo`: the product on this machine, step by step: what happens, the curl that does it, and the answer.

Every number shown is read back from the API and compared with the counts of the sandbox vendors.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from tocsin.demo.samples import sample_events, sample_people
from tocsin.demo.stage import Stage
from tocsin.errors import Misconfigured

ZONE = "Europe/Berlin"
GREETING = 'Hello {{ Profile.Name | default: "there" }}'
BATCH = 1000
CLICKS = 25


def show(*, once: bool, data: Path | None, port: int | None, sandbox_port: int | None, users: int) -> None:
    """Run the demo with so many `users`; return when the results are in with `once`, else serve until Ctrl-C.

    Raise Misconfigured when a number is wrong or a port is not free.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # sys.exit runs the exits that stop both processes
    with contextlib.ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-demo-")))
        stage = stack.enter_context(
            Stage.open(folder, port or free_port(8100, 1), sandbox_port or free_port(8200, 7), ZONE)
        )
        _upload_people(stage, users)
        platinum = _ask_audience(stage)
        campaign = _run_campaign(stage, platinum)
        _send_by_identity(stage)
        _stop_scheduled(stage)
        _click(stage, campaign)
        _compare_with_vendors(stage, campaign)
        stage.say_end(serving=not once)
        if not once:
            stage.serve_until_interrupted()


def _upload_people(stage: Stage, users: int) -> None:
    stage.title("People come in", f"{users:,} sample users of six countries, one device each; then what they did")
    records = list(sample_people(users, stage.wns_prefix))
    stage.show_call("/1/upload", {"d": records[:2]}, more=f"… {len(records):,} records, {BATCH} a request")
    processed = 0
    for start in stage.track(range(0, len(records), BATCH), "users"):
        processed += stage.call("/1/upload", {"d": records[start : start + BATCH]})["processed"]
    stage.show_answer({"status": "success", "processed": processed, "unprocessed": []})
    stage.check(processed == len(records), "every record was taken")

    events = stage.folder / "events.jsonl"
    events.write_bytes(b"\n".join(msgspec.json.encode(row) for row in sample_events(users, time.time())))
    answer = stage.command("import", "events", str(events), "--account", stage.account_id)
    stage.check(answer["unprocessed"] == 0, "every event was taken")


def _days(back: int) -> tuple[int, int]:
    today = datetime.now(ZoneInfo(ZONE))
    return int((today - timedelta(days=back)).strftime("%Y%m%d")), int(today.strftime("%Y%m%d"))


def _ask_audience(stage: Stage) -> dict[str, object]:
    first, last = _days(30)
    where: dict[str, object] = {
        "event_name": "Product viewed",
        "from": first,
        "to": last,
        "common_profile_properties": {"profile_fields": [{"name": "Customer Type", "value": "Platinum"}]},
    }
    stage.title("An audience, estimated", "Platinum customers who viewed a product in the last 30 days")
    body = _campaign("Espresso week", where) | {"estimate_only": True}
    stage.show_call("/1/targets/create.json", body)
    stage.show_answer(stage.create(body))
    return where


def _campaign(name: str, where: dict[str, object]) -> dict[str, object]:
    return {
        "name": name,
        "where": where,
        "content": {
            "title": GREETING,
            "body": "The espresso machine you looked at is 20 % off today.",
            "platform_specific": {
                "android": {"deep_link": "shop://espresso", "default_sound": True, "Key": "Value_android"},
                "ios": {"deep_link": "shop://espresso", "badge_count": 1, "mutable-content": "true"},
                "windows": {"deep_link": "shop://espresso"},
            },
        },
        "devices": ["android", "ios", "windows"],
        "when": "now",
    }


def _run_campaign(stage: Stage, where: dict[str, object]) -> int:
    stage.title("A campaign to Android, iOS and Windows", "the same question, now sent: each greeted by name")
    body = _campaign("Espresso week", where)
    stage.show_call("/1/targets/create.json", body)
    answer = stage.create(body)
    stage.show_answer(answer)
    campaign = int(answer["id"])
    result = stage.wait_for_result(campaign)
    stage.show_call("/1/targets/result.json", {"id": campaign})
    stage.show_answer({"status": "success", "result": result})
    parts = sum(result[name] for name in ("sent", "unknown", "failed", "suppressed"))
    stage.check(result["audience"] == parts, "audience = sent + unknown + failed + suppressed")
    stage.check(result["sent"] == sum(answer["estimates"].values()), "sent is what was estimated")
    return campaign


def _send_by_identity(stage: Stage) -> None:
    stage.title("A push and an e-mail to people by name", "up to 1,000 a request, queued durably before the answer")
    push = {
        "to": {"Identity": ["user-00001", "user-00002"], "Email": ["user-00003@example.com"]},
        "tag_group": "order updates",
        "content": {"title": GREETING, "body": "Your order is on its way."},
    }
    stage.show_call("/1/send/push.json", push)
    stage.show_answer(stage.call("/1/send/push.json", push))
    mail = {
        "to": {"Email": ["user-00001@example.com", "user-00004@example.com"]},
        "tag_group": "order updates",
        "content": {"subject": "Your order", "body": "<p>Hello {{ Profile.Name }}, it is on its way.</p>"},
    }
    stage.show_call("/1/send/email.json", mail)
    stage.show_answer(stage.call("/1/send/email.json", mail))
    groups = stage.wait_for_groups()
    stage.show_call("/1/tag_groups.json", None)
    stage.show_answer({"status": "success", "tag_groups": groups})


def _stop_scheduled(stage: Stage) -> None:
    stage.title("A campaign for tomorrow, stopped", f"times are those of the account's clock, {ZONE}")
    tomorrow = (datetime.now(ZoneInfo(ZONE)) + timedelta(days=1)).strftime("%Y%m%d 09:00")
    body = _campaign("Tomorrow at nine", {}) | {"when": tomorrow}
    stage.show_call("/1/targets/create.json", body)
    answer = stage.create(body)
    stage.show_answer(answer)
    stage.show_call("/1/targets/stop.json", {"id": answer["id"]})
    stage.show_answer(stage.call("/1/targets/stop.json", {"id": answer["id"]}))
    first, last = _days(0)
    tomorrow_day = int(tomorrow[:8])
    listed = stage.call("/1/targets/list.json", {"from": first, "to": max(last, tomorrow_day)})["targets"]
    stage.show_call("/1/targets/list.json", {"from": first, "to": max(last, tomorrow_day)})
    stage.show_answer({"status": "success", "targets": listed})
    states = {one["id"]: one["status"] for one in listed}
    stage.check(states.get(answer["id"]) == "stopped", "the scheduled campaign is stopped")


def _click(stage: Stage, campaign: int) -> None:
    stage.title("Clicks come back", f"{CLICKS} phones report the id their message carried")
    ids = list(_push_ids(stage, campaign))[:CLICKS]
    stage.show_call("/track/clicked", {"id": ids[0]}, more=f"… {len(ids)} times")
    for push_id in ids:
        stage.call("/track/clicked", {"id": push_id})
    result = stage.wait_for_result(campaign)
    stage.show_call("/1/targets/result.json", {"id": campaign})
    stage.show_answer({"status": "success", "result": result})
    stage.check(result["clicked"] == len(ids), "each click counts once")

    first, last = _days(1)  # midnight may lie between the click and the query
    where: dict[str, object] = {"event_name": "Notification Clicked", "from": first, "to": last}
    body = _campaign("Those who clicked", where) | {"estimate_only": True}
    stage.show_call("/1/targets/create.json", body)
    answer = stage.create(body)
    stage.show_answer(answer)
    stage.check(sum(answer["estimates"].values()) == len(ids), "those who clicked are an audience themselves")


def _push_ids(stage: Stage, campaign: int) -> Iterator[str]:
    for message in stage.messages("fcm"):
        data = message["body"]["message"]["data"]
        if data["wzrk_id"].startswith(f"{campaign}_"):
            yield data["wzrk_pid"]


def _compare_with_vendors(stage: Stage, campaign: int) -> None:
    stage.title("What the vendors counted", "the sandbox speaks the vendors' protocols, and counts for itself")
    counts = stage.sandbox("/counts")
    stage.show_answer(counts)
    accepted = sum(one["accepted"] for one in counts.values())
    groups = stage.wait_for_groups().values()
    sent = stage.wait_for_result(campaign)["sent"] + sum(group["sent"] for group in groups)
    stage.check(accepted == sent, f"accepted by the vendors = sent by Tocsin = {sent}")
    stage.check(not sum(one["duplicates"] for one in counts.values()), "no message came twice")


def free_port(first: int, count: int) -> int:
    """Return the first of `count` consecutive free ports, from `first` on in steps of 10.

    A demo that still runs does not make the next one fail. Raise Misconfigured when a thousand ports have no room.
    """
    for start in range(first, first + 1000, 10):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(start, start + count):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return start
    raise Misconfigured(f"No free port from {first} on; give --port and --sandbox-port.")
