"""Claim: every pair of reasons not to send, and what is left. Pure: no store, no clock."""

from __future__ import annotations

import array
import itertools
from datetime import UTC, time

import pytest

from tocsin.campaign.quiet_hours import Quiet, Window
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.batch import BatchContext
from tocsin.delivery.claim import (
    OpenLane,
    address_window,
    apply_caps,
    drop_late,
    find_claims,
    hold_in_quiet_hours,
    select_window,
)
from tocsin.delivery.frequency_cap import CapDecision
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.recipients import Person
from tocsin.outcome import State
from tocsin.providers.contract import Address
from tocsin.queue import Chunk, Note

SECRETS = Secrets(b"message", b"signing")
NOW = 1_800_000_000.0
LATER = NOW + 60
ANDROID, IOS = PLATFORM_CODES.index("android"), PLATFORM_CODES.index("ios")


def make_chunk(states: bytes, platforms: bytes | None = None, *, expires_at: float = NOW + 3600) -> Chunk:
    return Chunk(
        id=1,
        account_id="a",
        run_id=1,
        campaign_id=1,
        channel="push",
        tag_group="",
        expires_at=expires_at,
        started_at=NOW,
        request=None,
        users=array.array("I", range(1, len(states) + 1)),
        platforms=platforms or bytes([ANDROID]) * len(states),
        states=bytearray(states),
        notes={},
    )


def make_plan(*, every_device: bool = False, personal: bool = False) -> DeliveryPlan:
    context = BatchContext("a", 1, b"{}", "1_20270115", "tocsin-1", NOW + 3600, "", SECRETS)
    return DeliveryPlan(context, every_device, personal, 512)


LANES: dict[str, dict[str, OpenLane]] = {
    "open": {"android": OpenLane()},
    "full": {"android": OpenLane(room=0)},
    "paused": {"android": OpenLane(LATER)},
    "ended pause": {"android": OpenLane(NOW)},
    "none": {},
}
DUE = {"at once": None, "due": NOW, "not yet": NOW + 1}


@pytest.mark.parametrize("refused", [False, True], ids=["content taken", "content refused"])
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("due", DUE)
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
def test_one_recipient(state: State, due: str, lane: str, refused: bool) -> None:
    """A recipient is in the window when they wait, are due, have an open lane and a content that is not refused;
    otherwise they are final with the one reason, wait for the lane's pause or its room, or stay as they were."""
    chunk = make_chunk(bytes([state]))
    if (at := DUE[due]) is not None:
        chunk.notes[0] = Note(not_before=at)

    window = select_window(chunk, LANES[lane], lambda _: refused, 512, NOW)

    if state is not State.WAITING or due == "not yet":
        assert (window, chunk.states[0]) == ([], state)
    elif lane == "none":
        assert (window, chunk.states[0]) == ([], State.NO_PROVIDER)
    elif refused:
        assert (window, chunk.states[0]) == ([], State.REFUSED)
        assert chunk.notes[0].code == "not tried: the content is refused"
    elif lane == "paused":
        assert (window, chunk.states[0], chunk.notes[0].not_before) == ([], State.WAITING, LATER)
    elif lane == "full":
        assert (window, chunk.states[0], chunk.waiting(NOW)) == ([], State.WAITING, [0])
    else:
        assert (window, chunk.states[0]) == ([0], State.WAITING)


def test_a_closed_lane_takes_nobodys_place() -> None:
    """Recipients of a paused platform are passed over, not counted; the window is full with those who can go."""
    platforms = bytes([IOS, ANDROID] * 10)
    chunk = make_chunk(bytes(20), platforms)
    lanes = {"android": OpenLane(), "ios": OpenLane(LATER)}
    assert select_window(chunk, lanes, lambda _: False, 4, NOW) == [1, 3, 5, 7]
    assert {position for position, note in chunk.notes.items() if note.not_before == LATER} == set(range(0, 20, 2))


def test_a_full_lane_takes_nobodys_place() -> None:
    """As many of a platform are in the window as its lane has room for; those of the other platform fill it."""
    platforms = bytes([IOS, ANDROID] * 10)
    lanes = {"android": OpenLane(), "ios": OpenLane(room=1)}
    assert select_window(make_chunk(bytes(20), platforms), lanes, lambda _: False, 4, NOW) == [0, 1, 3, 5]


@pytest.mark.parametrize("expired", [False, True], ids=["valid", "expired"])
@pytest.mark.parametrize("cut_off", [None, NOW, NOW + 1], ids=["no cut-off", "cut off", "cut-off later"])
def test_late(cut_off: float | None, expired: bool) -> None:
    """Expiry goes before the cut-off; both end everybody who waits, due or not, and nobody else."""
    chunk = make_chunk(bytes([State.WAITING, State.WAITING, State.ACCEPTED]), expires_at=NOW if expired else NOW + 1)
    chunk.cut_off = cut_off
    chunk.notes[1] = Note(not_before=NOW + 100)
    drop_late(chunk, NOW)
    end = State.EXPIRED if expired else State.CUT_OFF if cut_off == NOW else State.WAITING
    assert list(chunk.states) == [end, end, State.ACCEPTED]


ALL_DAY = {str(day): (Window(time(0), time(0)),) for day in range(1, 8)}


@pytest.mark.parametrize("state", ["delay", "discard"])
def test_quiet_hours(state: str) -> None:
    """Where it is quiet recipients wait, no longer than the message lives, or get nothing; the others stay in."""
    quiet = Quiet(windows=ALL_DAY, zone="user", state=state)  # type: ignore[arg-type]
    chunk = make_chunk(bytes(2))
    assert hold_in_quiet_hours(chunk, [0, 1], quiet, {}, UTC, NOW) == []
    if state == "discard":
        assert list(chunk.states) == [State.QUIET_HOURS] * 2
    else:
        assert list(chunk.states) == [State.WAITING] * 2
        assert [chunk.notes[place].not_before for place in (0, 1)] == [chunk.expires_at] * 2
    loud = Quiet(windows={}, zone="user", state=state)  # type: ignore[arg-type]
    assert hold_in_quiet_hours(make_chunk(bytes(2)), [0, 1], loud, {}, UTC, NOW) == [0, 1]


OLD, NEW = Address("fcm", "old"), Address("fcm", "new")
PEOPLE: dict[str, tuple[Person | None, list[str] | State]] = {
    "nobody": (None, State.NO_DEVICE),
    "no device": (Person("{}"), State.NO_DEVICE),
    "opted out": (Person("{}", {}, {"android"}), State.UNSUBSCRIBED),
    "opted out elsewhere": (Person("{}", {}, {"ios"}), State.NO_DEVICE),
    "two devices": (Person('{"Name": "Ann"}', {"android": [(2, NEW), (1, OLD)]}), ["new", "old"]),
    "one of two opted out": (Person("{}", {"android": [(2, NEW)]}, {"android"}), ["new"]),
}


@pytest.mark.parametrize("every_device", [False, True])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(PEOPLE, repeat=2)))
def test_addresses(first: str, second: str, every_device: bool) -> None:
    """Each of two recipients gets the messages of their own devices or their own reason, whoever is beside them."""
    chunk = make_chunk(bytes(2))
    people = {user: person for user, person in ((1, PEOPLE[first][0]), (2, PEOPLE[second][0])) if person is not None}
    window = address_window(chunk, [0, 1], make_plan(every_device=every_device), people, NOW)
    for position, name in enumerate((first, second)):
        expected = PEOPLE[name][1]
        found = [one.address.value for one in window.get("android", ()) if one.position == position]
        if isinstance(expected, State):
            assert (found, chunk.states[position]) == ([], expected)
        else:
            assert (found, chunk.states[position]) == (expected if every_device else expected[:1], State.WAITING)


def test_profiles_travel_only_where_they_are_read() -> None:
    """A content that looks at no profile is sent without one."""
    people = {1: PEOPLE["two devices"][0]}
    for personal in (False, True):
        plan = make_plan(personal=personal)
        window = address_window(make_chunk(bytes(1)), [0], plan, people, NOW)  # type: ignore[arg-type]
        assert [one.profile for one in window["android"]] == ['{"Name": "Ann"}' if personal else ""]


DECISIONS = {
    "allowed": CapDecision(),
    "dropped": CapDecision(dropped={0: State.FREQUENCY_CAP}),
    "later": CapDecision(later={0: LATER}),
    "after the end": CapDecision(later={0: NOW + 7200}),
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_caps(decision: str) -> None:
    """Who is capped leaves the window with all their messages; who has to wait, waits no longer than the message lives.
    Nobody beside them is touched."""
    chunk = make_chunk(bytes(2))
    people = dict.fromkeys((1, 2), PEOPLE["two devices"][0])
    window = address_window(chunk, [0, 1], make_plan(every_device=True), people, NOW)  # type: ignore[arg-type]
    assert [claim.user for claim in find_claims(chunk, window, NOW)] == [1, 2]

    left = apply_caps(chunk, window, DECISIONS[decision], NOW)

    stays = [0, 0, 1, 1] if decision == "allowed" else [1, 1]
    assert [one.position for one in left["android"]] == stays
    assert chunk.states[1] == State.WAITING
    assert 1 not in chunk.notes
    if decision == "dropped":
        assert chunk.states[0] == State.FREQUENCY_CAP
    elif decision != "allowed":
        assert chunk.notes[0].not_before == (LATER if decision == "later" else chunk.expires_at)
