"""What the sandbox's push service takes and refuses, by its documents: RFC 8030, 8188, 8291 and 8292."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tocsin.providers.aes128gcm import encrypt
from tocsin.sandbox.credentials import FILE, read_credentials
from tocsin.sandbox.http import Head, VendorRequest
from tocsin.sandbox.vendor import Ruling
from tocsin.sandbox.web_push import WebPushRules
from tocsin.sandbox.web_push_key import HOSTS, Subscriptions, decode, encode, point_of

KEY = ec.derive_private_key(12345, ec.SECP256R1())
POINT = point_of(KEY.public_key())
SUBSCRIPTIONS = Subscriptions(b"secret", POINT)
RULES = WebPushRules(SUBSCRIPTIONS, "https://127.0.0.1:8206")
TEXT = b'{"title":"Hi","notificationOptions":{"data":{"wzrk_id":"7_20260101"}}}'


def write_body(subscription: dict[str, Any], text: bytes = TEXT) -> bytes:
    """A text, encrypted for a subscription."""
    return encrypt(text, decode(subscription["keys"]["p256dh"]), decode(subscription["keys"]["auth"]))


def authorize(key: ec.EllipticCurvePrivateKey = KEY, shown: bytes = POINT, **changed: Any) -> str:
    """A VAPID header, right unless something is changed."""
    claims = {"aud": HOSTS["firefox"].removesuffix("/wpush/v2/"), "exp": int(time.time()) + 3600}
    token = jwt.encode({**claims, "sub": "mailto:a@b.example", **changed}, key, "ES256")
    return f"vapid t={token}, k={encode(shown)}"


def post(subscription: dict[str, Any] | None = None, body: bytes | None = None, **changed: Any) -> Ruling:
    """The ruling on a right message, of which headers are changed; None leaves one out, `_` is a dash."""
    subscription = subscription or SUBSCRIPTIONS.make()
    headers: dict[str, str | None] = {
        "authorization": authorize(),
        "ttl": "60",
        "content-encoding": "aes128gcm",
        "host": "updates.push.services.mozilla.com",
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    kept = tuple((name, value) for name, value in headers.items() if value is not None)
    path = "/" + subscription["endpoint"].split("/", 3)[3]
    return RULES.judge(VendorRequest(Head("POST", path, kept), write_body(subscription) if body is None else body))


def test_a_right_message_is_taken() -> None:
    """201 with the message's own place, and what the browser reads stands in the log."""
    ruling = post(topic="orders", urgency="very-low")
    assert ruling.reply.status == 201
    assert dict(ruling.reply.headers)["location"].startswith("https://127.0.0.1:8206/m/")
    assert ruling.accepted is not None
    assert (ruling.accepted.campaign, bytes(msgspec.json.encode(ruling.accepted.body))) == ("7_20260101", TEXT)
    assert "authorization" not in ruling.accepted.headers
    assert post(body=b"", content_encoding=None).reply.status == 201  # RFC 8030: a message may have no body


LATER = int(time.time()) + 3600


@pytest.mark.parametrize(
    ("status", "words", "changed"),
    [
        (400, "TTL", {"ttl": None}),
        (400, "TTL", {"ttl": "soon"}),
        (400, "Topic", {"topic": "x" * 33}),
        (400, "Topic", {"topic": "a b"}),
        (400, "Urgency", {"urgency": "now"}),
        (400, "Content-Encoding", {"content_encoding": "aesgcm"}),
        (401, "vapid", {"authorization": None}),
        (401, "vapid", {"authorization": "WebPush abc"}),
        (401, "aud", {"authorization": authorize(aud="https://fcm.googleapis.com")}),
        (401, "exp", {"authorization": authorize(exp=LATER - 7200)}),
        (401, "exp", {"authorization": authorize(exp=LATER + 24 * 3600)}),
        (401, "exp", {"authorization": authorize(exp=None)}),
        (403, "sub", {"authorization": authorize(sub="ops")}),
        (401, "signed with k", {"authorization": authorize(ec.generate_private_key(ec.SECP256R1()))}),
        (401, "no point", {"authorization": authorize(shown=b"4" * 65)}),
        (401, "aud", {"x_tocsin_endpoint": "https://web.push.apple.com/x"}),
    ],
)
def test_what_is_refused(status: int, words: str, changed: dict[str, Any]) -> None:
    ruling = post(**changed)
    assert ruling.reply.status == status
    assert words in msgspec.json.decode(ruling.reply.body)["error"]


def test_a_subscription_is_its_keys_alone() -> None:
    """RFC 8292, 4.2: another key, right as its token may be, opens nothing; nor does a key of another curve."""
    other = ec.derive_private_key(54321, ec.SECP256R1())
    shown = point_of(other.public_key())
    assert post(authorization=authorize(other, shown)).reply.status == 403
    made = SUBSCRIPTIONS.make(public_key=shown)
    assert post(made, authorization=authorize(other, shown)).reply.status == 201
    assert post(made).reply.status == 403


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body[:20], "no point"),
        (lambda body: body[:-1] + bytes([body[-1] ^ 1]), "not encrypted for"),
        (lambda body: body[:16] + (17).to_bytes(4, "big") + body[20:], "one record"),
        (lambda body: body[:16] + (60).to_bytes(4, "big") + body[20:], "one record"),
        (lambda body: body[:21] + b"\x04" + b"x" * 64 + body[86:], "no point"),
    ],
)
def test_what_no_browser_could_read_is_refused(change: Any, words: str) -> None:
    """A real push service would take it, and nobody would ever see it."""
    made = SUBSCRIPTIONS.make()
    ruling = post(made, change(write_body(made)))
    assert ruling.reply.status == 400
    sentence = msgspec.json.decode(ruling.reply.body)["error"]
    assert "No browser could read it" in sentence
    assert words in sentence


def test_a_message_for_another_browser_is_refused() -> None:
    assert post(SUBSCRIPTIONS.make(), write_body(SUBSCRIPTIONS.make())).reply.status == 400


def test_sizes_and_names() -> None:
    """4,096 bytes are taken and no more; a name selects its answer, and one that is none is nobody's."""
    made = SUBSCRIPTIONS.make()
    assert post(made, write_body(made, b"x" * 3993)).reply.status == 201
    assert post(made, b"x" * 4097).reply.status == 413
    statuses = [post(SUBSCRIPTIONS.make(marker=one)).reply.status for one in ("expired", "notfound", "throttled")]
    assert statuses == [410, 404, 429]
    assert RULES.judge(VendorRequest(Head("POST", "/wpush/v2/abc", ()), b"")).reply.status == 404
    path = "/" + str(made["endpoint"]).split("/", 3)[3]
    assert RULES.judge(VendorRequest(Head("GET", path, ()), b"")).reply.status == 405


def test_older_credentials_get_a_key(tmp_path: Path) -> None:
    """A `--data` folder from before there was web push keeps what it has, and its new key from then on."""
    made = read_credentials(tmp_path)
    older = msgspec.to_builtins(made)
    del older["vapid_key"]
    (tmp_path / FILE).write_bytes(msgspec.json.encode(older))
    found = read_credentials(tmp_path)
    assert msgspec.structs.replace(found, vapid_key=made.vapid_key) == made
    assert "PRIVATE KEY" in found.vapid_key
    assert read_credentials(tmp_path) == found


def test_base64url_is_read_with_and_without_padding() -> None:
    assert decode(base64.urlsafe_b64encode(POINT).decode()) == decode(encode(POINT)) == POINT
