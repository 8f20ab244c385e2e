"""Settle: every receipt, every pair of receipts, on every try. Pure: no store, no clock."""

from __future__ import annotations

import itertools

import pytest
from test_claim import NOW, make_chunk

from tocsin.delivery.batch import PendingMessage
from tocsin.delivery.claim import find_claims
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.settle import SettleRules, find_unsent, settle_messages
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Address, Receipt, Scope
from tocsin.queue import Chunk, Note

RETRIES = 2
RECEIPTS = {
    "accepted": Receipt(outcome=Outcome.ACCEPTED),
    "unknown": Receipt(outcome=Outcome.UNKNOWN, code="cut"),
    "throttled": Receipt(outcome=Outcome.THROTTLED, code="429", scope=Scope.LANE, retry_after=5),
    "denied": Receipt(outcome=Outcome.DENIED, code="401", scope=Scope.LANE),
    "unavailable": Receipt(outcome=Outcome.UNAVAILABLE, code="503"),
    "vendor away": Receipt(outcome=Outcome.UNAVAILABLE, code="503", scope=Scope.LANE, retry_after=5),
    "refused": Receipt(outcome=Outcome.REFUSED, code="400"),
    "gone": Receipt(outcome=Outcome.GONE, code="404"),
}
# What one receipt makes of a recipient on the first try, a later one, the last one; and on one that resends.
ONE: dict[str, tuple[State, State, State]] = {
    "accepted": (State.ACCEPTED, State.ACCEPTED, State.ACCEPTED),
    "unknown": (State.UNKNOWN, State.UNKNOWN, State.UNKNOWN),
    "throttled": (State.WAITING, State.WAITING, State.WAITING),
    "denied": (State.WAITING, State.WAITING, State.WAITING),
    "unavailable": (State.WAITING, State.WAITING, State.EXPIRED),
    "vendor away": (State.WAITING, State.WAITING, State.WAITING),
    "refused": (State.REFUSED, State.REFUSED, State.REFUSED),
    "gone": (State.GONE, State.GONE, State.GONE),
}
RESENT = (State.WAITING, State.WAITING, State.UNKNOWN)
STRONGEST_FIRST = ("accepted", "unknown", "throttled", "denied", "unavailable", "vendor away", "refused", "gone")


def claimed(count: int, tries: int = 0, *, resend: bool = False) -> Chunk:
    chunk = make_chunk(bytes([State.CLAIMED]) * count)
    chunk.resend = resend
    if tries:
        chunk.notes[0] = Note(tries=tries, code="before")
    return chunk


def settle(chunk: Chunk, receipts: list[list[str]], *, every_device: bool) -> dict[int, list[str]]:
    """Settle recipients with these receipts of their devices; return the dead addresses by user."""
    messages = [
        PendingMessage(position, 10 * position + device, Address("fcm", f"{position}-{device}"))
        for position, devices in enumerate(receipts)
        for device in range(len(devices))
    ]
    flat = [RECEIPTS[name] for devices in receipts for name in devices]
    answers = {place: one for place, one in enumerate(flat) if one.outcome is not Outcome.ACCEPTED}
    rules = SettleRules(RetryPolicy(floor=10.0, retries=RETRIES), every_device, lambda: 0.5)
    dead = settle_messages(chunk, messages, answers, rules, NOW)
    return {user: [address.value for _, address, _ in found] for user, found in dead.items()}


@pytest.mark.parametrize("resend", [False, True], ids=["report", "resend"])
@pytest.mark.parametrize("tries", [0, 1, RETRIES])
@pytest.mark.parametrize("name", RECEIPTS)
def test_one_receipt(name: str, tries: int, resend: bool) -> None:
    """What one receipt makes of a recipient, and what the note says of it afterwards."""
    chunk = claimed(1, tries, resend=resend)
    dead = settle(chunk, [[name]], every_device=False)
    expected = RESENT[tries] if resend and name == "unknown" else ONE[name][tries]
    assert chunk.states[0] == expected
    assert dead == ({1: ["0-0"]} if name == "gone" else {})
    if name == "accepted" and not tries:
        assert chunk.notes == {}
        return
    note = chunk.notes[0]
    spends_none = name in ("throttled", "denied", "vendor away")
    assert note.tries == tries + (not spends_none)
    assert note.code == ("" if name == "accepted" else RECEIPTS[name].code)
    assert (note.not_before > NOW) is (expected is State.WAITING)
    assert note.at == (NOW if expected in FINAL and tries else 0.0)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(RECEIPTS, repeat=2)))
def test_two_devices_of_one_recipient(first: str, second: str) -> None:
    """The strongest receipt is the recipient's: one device that has the message is enough, a doubt goes before a retry,
    so that nobody is sent to twice. Each dead device is found, whatever became of its owner."""
    chunk = claimed(1)
    dead = settle(chunk, [[first, second]], every_device=True)
    strongest = min(first, second, key=STRONGEST_FIRST.index)
    assert chunk.states[0] == ONE[strongest][0]
    expected = [f"0-{device}" for device, name in enumerate((first, second)) if name == "gone"]
    assert dead == ({1: expected} if expected else {})


@pytest.mark.parametrize("every_device", [False, True])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(RECEIPTS, repeat=2)))
def test_two_recipients(first: str, second: str, every_device: bool) -> None:
    """Nobody's receipt touches the one beside them, and who certainly got nothing frees their place under the caps."""
    chunk = claimed(2)
    settle(chunk, [[first], [second]], every_device=every_device)
    assert list(chunk.states) == [ONE[first][0], ONE[second][0]]
    window = {"android": [PendingMessage(position, position, Address("fcm", "x")) for position in (0, 1)]}
    unsent = {claim.position for claim in find_unsent(chunk, find_claims(chunk, window, NOW))}
    assert unsent == {place for place, name in enumerate((first, second)) if name not in ("accepted", "unknown")}


def test_states_move_along_the_table_only() -> None:
    """A receipt for somebody who is not claimed is a bug, and says so."""
    for state in State:
        if state is not State.CLAIMED:
            chunk = make_chunk(bytes([state]))
            with pytest.raises(ValueError, match="cannot go from"):
                settle(chunk, [["accepted"]], every_device=False)
