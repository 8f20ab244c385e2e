"""Sends with firebase-admin and aioapns as they come, in an environment of their own. Prints what came back, as JSON.

Argument: the folder with the sandbox's `ca.pem`, `service_account.json` and `apns.json`.
`HTTPS_PROXY` and `REQUESTS_CA_BUNDLE` are set by who starts this.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aioapns
import firebase_admin
from firebase_admin import messaging


def send_fcm(folder: Path) -> dict[str, Any]:
    """A message with everything in it, a trial, a batch, and devices that are gone or somebody else's."""
    firebase_admin.initialize_app(firebase_admin.credentials.Certificate(str(folder / "service_account.json")))
    whole = messaging.Message(
        token="python-whole:device",
        data={"order": "7"},
        notification=messaging.Notification("Hello", "there", "https://example.com/a.png"),
        android=messaging.AndroidConfig(
            collapse_key="orders",
            priority="high",
            ttl=3600,
            notification=messaging.AndroidNotification(
                color="#112233", channel_id="orders", priority="max", vibrate_timings_millis=[100]
            ),
            fcm_options=messaging.AndroidFCMOptions("label"),
        ),
        webpush=messaging.WebpushConfig(fcm_options=messaging.WebpushFCMOptions("https://example.com/")),
        apns=messaging.APNSConfig(payload=messaging.APNSPayload(messaging.Aps(badge=1, sound="default"))),
    )
    batch = [messaging.Message(token=f"python-batch-{number}:device") for number in range(3)]
    return {
        "sent": messaging.send(whole),
        "trial": messaging.send(whole, dry_run=True),
        "batch": messaging.send_each(batch).success_count,
        "gone": fail("python-unregistered:device"),
        "foreign": fail("python-mismatch:device"),
    }


def fail(token: str) -> str:
    """The name of the error that a message to this token raises."""
    try:
        messaging.send(messaging.Message(token=token))
    except firebase_admin.exceptions.FirebaseError as error:
        return type(error).__name__
    return "sent"


async def send_apns(folder: Path) -> list[list[str]]:
    """[asked id, answered id, status, reason] of messages: the first meets a scripted error, the last a gone device."""
    apns = json.loads((folder / "apns.json").read_text())
    protocol = aioapns.connection.APNsProductionClientProtocol
    protocol.APNS_SERVER, protocol.APNS_PORT = "127.0.0.1", int(urlsplit(apns["endpoint"]).port or 0)
    client = aioapns.APNs(
        key=apns["key"],
        key_id=apns["key_id"],
        team_id=apns["team_id"],
        topic=apns["topic"],
        ssl_context=ssl.create_default_context(cafile=str(folder / "ca.pem")),
    )
    answers = []
    for device in ("a1" * 32, "a2" * 32, "a3" * 30 + "dead"):
        asked = aioapns.NotificationRequest(device_token=device, message={"aps": {"alert": "Hello"}})
        answer = await asyncio.wait_for(client.send_notification(asked), 10)
        answers.append([asked.notification_id, answer.notification_id, answer.status, answer.description])
    return answers


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps({"fcm": send_fcm(folder), "apns": asyncio.run(send_apns(folder))}))
