"""What one account's templates do to another's requests and messages: nothing. Each of these took the server, or the
other's messages, before templates had an end."""

from __future__ import annotations

import threading
from time import monotonic

import pytest
from conftest import Caller, Sandbox, Server, people, token, wait_for

PUSH, EMAIL = "/1/send/push.json", "/1/send/email.json"
QUEUED = (200, {"status": "success", "message": "Added to queue for processing"})
OF_THE_PROFILE = "{% for i in (1..Profile.n) limit:1 offset:Profile.m %}x{% endfor %}"


def ask(caller: Caller, path: str, **content: str) -> tuple[int, str]:
    status, answer = caller.post(path, {"to": {"Identity": ["nobody"]}, "content": content})
    return status, answer.get("error", "")


@pytest.mark.parametrize(
    "body",
    [
        "{% for i in (1..400000000) limit:1 offset:399999999 %}x{% endfor %}",
        "{% for i in (1..20000000) reversed %}x{% endfor %}",
        "{% tablerow i in (1..400000000) limit:1 offset:399999999 %}x{% endtablerow %}",
    ],
)
def test_a_long_range_is_refused_at_once(caller: Caller, body: str) -> None:
    """67 bytes held the whole server for eight seconds."""
    started = monotonic()
    status, error = ask(caller, PUSH, title="t", body=body)
    assert (status, monotonic() - started < 5) == (400, True)
    assert "(at $.content.body, line 1, column " in error


def test_a_range_of_a_profile_harms_nobody_else(sending: Caller, server: Server, sandbox: Sandbox) -> None:
    """Whom it cannot be rendered for is refused; another account's messages, in the same process, go out."""
    other = server.account()
    server.use_sandbox(other, sandbox)
    numbers = {"n": 3_900_000_000, "m": 3_899_999_999}
    sending.upload(
        {"type": "profile", "identity": "z", "objectId": "zd", "profileData": numbers},
        {"type": "token", "objectId": "zd", "tokenData": {"type": "fcm", "id": token("fcm", "range")}},
    )
    other.upload(*people(6, kinds=("fcm",)))
    body = {"to": {"Identity": ["z"]}, "tag_group": "bomb", "content": {"title": "t", "body": OF_THE_PROFILE}}
    assert sending.post(PUSH, body) == QUEUED
    assert other.result(other.create())["sent"] == 6

    def failed() -> bool:
        group = sending.get("/1/tag_groups.json")[1]["tag_groups"].get("bomb", {})
        return bool(group.get("failed") == 1)

    wait_for(failed)


def test_mails_of_one_account_hold_up_no_upload(caller: Caller, server: Server) -> None:
    """Eight mails of «<!--» held everybody's uploads for 25 s."""
    other, answers = server.account(), list[tuple[int, str]]()
    body = "<!--" * 25_000  # above KNOWN_BYTES: each is compiled
    threads = [
        threading.Thread(target=lambda: answers.append(ask(caller, EMAIL, subject="s", body=body))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        started = monotonic()
        other.upload({"type": "event", "identity": "u", "evtName": "E"})
        slowest = max(slowest, monotonic() - started)
    assert slowest < 5
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} <= {200, 429}


@pytest.mark.parametrize("body", ["<![ x", "<![a[", "&#" + "1" * 5000 + ";"])
def test_odd_html_is_taken(caller: Caller, body: str) -> None:
    """It was answered 500."""
    assert ask(caller, EMAIL, subject="s", body=body) == (200, "")


def test_lines_of_liquid_are_refused(caller: Caller) -> None:
    """910 kB that counted as one tag took 155 MB, and kept it."""
    status, error = ask(caller, EMAIL, subject="s", body="{% liquid\n" + "assign x = 1\n" * 70_000 + "%}")
    assert status == 400
    assert "more than 200 tags" in error
