"""Signed ids: each is good for one purpose and for a time, and a key can be replaced."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, get_args

import msgspec
import pytest
import structlog.testing
from conftest import Caller, Sandbox, Server, people, wait_for
from hypothesis import given
from hypothesis import strategies as st
from support.bounces import CONTENT, IDS, SECRET, Post, mail_all, mails_of
from support.stage import NOW, Stage, Vendor, report_view

from tocsin.cli.bounce import free
from tocsin.content import Content
from tocsin.delivery.batch import BatchContext, PendingMessage, render
from tocsin.delivery.push_id import Purpose, Secrets, read_push_id, sign_push_id
from tocsin.errors import Misconfigured, Problem
from tocsin.feedback.bounce_report import Recipient, Report
from tocsin.feedback.interactions import TRACK_DAYS
from tocsin.feedback.signed_id import LOOK_SECONDS, SignedIds
from tocsin.ingest.subscription import AddressChange, apply_address_changes
from tocsin.providers.contract import Address
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger, read_secret
from tocsin.store.signing_key import FIRST, READ, SigningKey, find_signing_keys, read_signing_keys, rotate_signing_key

pytest_plugins = ("engines",)

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ONE_CLICK = b"List-Unsubscribe=One-Click"


@pytest.fixture
def post(store: Ledger, facts: Facts) -> Post:
    return Post(store, facts)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), st.integers(0, 999))
def test_an_id_has_one_purpose(secret: bytes, chunk: int, position: int) -> None:
    """Signed for one it is refused for every other."""
    for made, asked in itertools.product(PURPOSES, repeat=2):
        push_id = sign_push_id(secret, chunk, position, made)
        if made == asked:
            assert read_push_id(secret, push_id, asked) == (chunk, position)
        else:
            with pytest.raises(Problem):
                read_push_id(secret, push_id, asked)


async def test_what_tracks_does_not_unsubscribe(post: Post) -> None:
    """The id that tracks a mail, and the one in its envelope, take nobody off the list; its link tracks nothing."""
    await post.move_in("u", "u@example.com")
    [link] = post.mail(1)
    place = read_push_id(SECRET, link, "unsubscribe")
    wrong: tuple[Purpose, ...] = ("track", "bounce", "any")
    for purpose in wrong:
        with pytest.raises(Problem, match="not the id of a mail"):
            await post.feedback.unsubscribe(sign_push_id(SECRET, *place, purpose), post.now)
    wrong = ("unsubscribe", "bounce", "any")
    for purpose in wrong:
        push_id = sign_push_id(SECRET, *place, purpose)
        with pytest.raises(Problem, match="not one this server gave out"):
            await report_view(post.ledger, post.facts, IDS, push_id, post.now)
    report = Report("complaint", (sign_push_id(SECRET, *place, "track"),), feedback="abuse")
    with pytest.raises(Problem, match="not the id of a mail"):
        await post.feedback.take_report(report, post.now)
    assert await post.reach() == 1


async def test_a_view_ends_with_its_days(store: Ledger, facts: Facts) -> None:
    """So long after the message was sent nobody views it any more."""
    stage = Stage(store, facts, {"android": Vendor()})
    await stage.people(1)
    await stage.campaign()
    await stage.deliver()
    chunk = store.read_now(
        lambda connection: connection.scalar(schema.chunk.select().order_by(schema.chunk.c.id.desc()))
    )
    push_id = sign_push_id(SECRET, int(chunk or 0), 0)
    with pytest.raises(Problem, match="has ended") as refused:
        await report_view(store, facts, IDS, push_id, NOW + (TRACK_DAYS + 1) * 86_400)
    assert refused.value.status == 410
    await report_view(store, facts, IDS, push_id, NOW + (TRACK_DAYS - 1) * 86_400)


def test_keys_rotate(store: Ledger) -> None:
    """The newest signs, the one before it is read, a third ends the first; and ids of before there were purposes end
    with the first rotation."""
    first = read_secret(store, FIRST)
    begun = read_signing_keys(store, NOW)
    assert [key.purposes for key in begun] == [True, False]
    assert begun[1].value == first
    assert read_signing_keys(store, NOW + 1) == begun == store.read_now(find_signing_keys)
    before = begun
    for number in range(4):
        keys = store.write_now(lambda connection: rotate_signing_key(connection, NOW - 5))
        assert [key.value for key in keys] == [keys[0].value, before[0].value], number
        assert keys == store.read_now(find_signing_keys)
        assert len(keys) == READ
        before = keys
    rows = store.read_now(lambda connection: connection.execute(schema.secret.select()).all())
    assert len([row for row in rows if row.name.startswith("sign.")]) == READ
    assert read_secret(store, FIRST) == first, "the ids that vendors see stay the same"


async def test_an_id_of_a_new_key_is_found(store: Ledger) -> None:
    """A process that runs finds the key of another one when an id fits none of its own, and asks the ledger for it not
    more than once in a while."""
    keys = read_signing_keys(store, NOW)
    ids = SignedIds(keys, store)
    rotated = store.write_now(lambda connection: rotate_signing_key(connection, NOW))
    new, old = (sign_push_id(key.value, 7, 3) for key in (rotated[0], keys[0]))
    with pytest.raises(Problem):
        await ids.read(new, "track")
    ids._looked_at -= LOOK_SECONDS
    assert await ids.read(new, "track") == await ids.read(old, "track") == (7, 3)


async def test_ids_of_before_there_were_purposes() -> None:
    """They are read for every purpose, by the key that had none, and by no other."""
    ids = SignedIds([SigningKey(b"n" * 32), SigningKey(SECRET, purposes=False)])
    for purpose in ("track", "unsubscribe", "bounce"):
        assert await ids.read(sign_push_id(SECRET, 7, 3, "any"), purpose) == (7, 3)
        for wrong in (sign_push_id(SECRET, 7, 3, purpose), sign_push_id(b"n" * 32, 7, 3, "any")):
            with pytest.raises(Problem):
                await ids.read(wrong, purpose)


def test_each_message_carries_what_it_is_good_for() -> None:
    """A push has an id that tracks; a mail one in its link and one in its envelope, and none that tracks. What vendors
    see as the id of a message stays the same under another key."""
    mail, push = Content(subject="s", body="b", sender_name="T"), Content(title="t", body="b")
    ids = set()
    for signing in (b"1" * 32, b"2" * 32):

        def made(content: Content, address: Address, platform: str, signing: bytes = signing) -> Any:
            secrets, encoded = Secrets(SECRET, signing), msgspec.json.encode(content)
            context = BatchContext("a", 7, encoded, "1_20270115", "c", NOW, "https://m.example.com", secrets)
            return render(context, platform, PendingMessage(3, 0, address))

        letter = made(mail, Address("email", "u@example.com"), "email")
        link = letter.unsubscribe.removeprefix("https://m.example.com/u/")
        tracked = made(push, Address("fcm", "token"), "android").data["wzrk_pid"]
        assert read_push_id(signing, link, "unsubscribe") == read_push_id(signing, letter.bounce, "bounce") == (7, 3)
        assert read_push_id(signing, tracked, "track") == (7, 3)
        ids.add(letter.id)
    assert len(ids) == 1


def test_each_id_is_good_where_it_is_meant(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The id of a mail's envelope is taken as a report and not as a link, and tracks nothing."""
    sending.upload(*people(1, kinds=("fcm",)))
    _, [link] = mail_all(server, sending)
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        key = ledger.read_now(find_signing_keys)[0].value
    envelope = sign_push_id(key, *read_push_id(key, link, "unsubscribe"), "bounce")
    anyone = Caller(server.port)
    assert anyone.call("POST", f"/u/{envelope}", ONE_CLICK, FORM)[0] == 404
    assert anyone.post("/track/viewed", {"id": envelope})[0] == 400
    complaint = (
        f"From: f@isp.example\r\nTo: bounces+{envelope}@example.com\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="p"\r\n\r\n'
        "--p\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nVersion: 1\r\n\r\n--p--\r\n"
    )
    status, answer, _ = anyone.call("POST", "/bounces", complaint.encode(), {"Content-Type": "message/rfc822"})
    assert (status, answer["result"]) == (200, "complaint"), answer


async def test_an_address_is_freed(post: Post) -> None:
    """Suppressed by mistake, it gets mail again, with a line in the log that says whose it is and not what."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    bounce = Report("bounce", (mail,), (Recipient("u@example.com", "failed", "5.1.1", "", "hard"),))
    assert (await post.feedback.take_report(bounce, post.now)).suppressed
    assert (post.dead("u@example.com"), await post.reach()) == ({"u@example.com"}, 2)
    with structlog.testing.capture_logs() as lines:
        assert await post.feedback.free_address(post.account.id, "U@Example.com") == 1
    assert [(one["account"], one["users"]) for one in lines] == [(post.account.id, [1])]
    assert "example.com" not in repr(lines)
    assert (post.dead("u@example.com"), await post.reach()) == (set(), 1)
    for address in ("u@example.com", "nobody@example.com", "no address", ""):
        with pytest.raises(Problem, match="not suppressed"):
            await post.feedback.free_address(post.account.id, address)


def test_an_address_is_freed_through_the_server(server: Server, caller: Caller) -> None:
    """`tocsin bounce --forget` asks the server that runs on the folder, as the account it names."""
    caller.upload({"type": "profile", "identity": "u", "profileData": {"Email": "u@example.com"}})
    with pytest.raises(Misconfigured, match="not suppressed"):
        free(server.data, caller.account_id, "u@example.com")


async def test_back_by_the_api_of_addresses(post: Post) -> None:
    """An address that had left and is subscribed again counts; one that had not left does not."""

    def change(*, opts_out: bool) -> set[str]:
        changes = [AddressChange("email", "u@example.com", opts_out)]
        return post.ledger.write_now(lambda one: apply_address_changes(one, post.account.id, changes, post.now))

    assert change(opts_out=False) == set()
    assert change(opts_out=True) == set()
    assert change(opts_out=False) == {"u@example.com"}
    assert change(opts_out=False) == set()


def test_back_through_the_server(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Who left by /1/subscribe and is back stays: the link of the mail from before is 410, a later one works."""
    sending.upload(*people(1, kinds=("fcm",)))
    _, [before] = mail_all(server, sending)
    ask = Caller(server.port)
    wait_for(lambda: ask.call("GET", f"/u/{before}")[0] == 200)
    for status in ("Unsubscribe", "Resubscribe"):
        body = {"d": [{"type": "email", "value": "user-0@example.com", "status": status}]}
        assert sending.post("/1/subscribe", body)[0] == 200
    code, answer, _ = ask.call("POST", f"/u/{before}", ONE_CLICK, FORM)
    assert (code, answer["code"]) == (410, 410)
    campaign = sending.create(content=CONTENT, target_mode="email", devices=[])
    sending.result(campaign)
    [later] = mails_of(server, sending, campaign)
    assert ask.call("POST", f"/u/{later}", ONE_CLICK, FORM)[0] == 200
