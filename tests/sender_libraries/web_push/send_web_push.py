"""Sends with pywebpush as it comes, in an environment of its own. Prints what came back, as JSON.

Argument: the folder with the sandbox's `vapid.pem` and `subscriptions.json`. `HTTPS_PROXY` and `REQUESTS_CA_BUNDLE` are
set by who starts this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pywebpush import WebPushException, webpush


def main(folder: Path) -> None:
    """Send a text to every subscription."""
    came = []
    for subscription in json.loads((folder / "subscriptions.json").read_text()):
        try:
            answer = webpush(
                subscription,
                "Grüße aus Python",
                vapid_private_key=str(folder / "vapid.pem"),
                vapid_claims={"sub": "mailto:ops@example.com"},
                ttl=60,
                headers={"Urgency": "low", "Topic": "orders"},
            )
            came.append(answer.status_code)
        except WebPushException as error:
            came.append(error.response.status_code)
    print(json.dumps({"came": came}))


main(Path(sys.argv[1]))
