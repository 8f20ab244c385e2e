"""Hand-over notes: a file that survives `kill -9` of its writer, who may believe it, what it makes of recipients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_claim import NOW, make_chunk
from test_settle import ONE, RECEIPTS, STRONGEST_FIRST

from tocsin.delivery import handover
from tocsin.delivery.batch import BatchContext, PendingMessage
from tocsin.delivery.circuit_breaker import BreakerRules
from tocsin.delivery.handover import (
    SLOTS,
    HandoverFolder,
    HandoverNote,
    NoteFile,
    Step,
    forget,
    list_owners,
    read_boot_id,
    read_evidence,
)
from tocsin.delivery.held_chunk import HeldChunk
from tocsin.delivery.lane import Lane, Outgoing
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.sender_pool import MessagesUnderWay
from tocsin.delivery.settle import SettleRules, rescue_recipient
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Address, Credential, Receipt

SECRETS = Secrets(b"message", b"signing")
RULES = SettleRules(RetryPolicy(floor=10.0, retries=2), every_device=True, random=lambda: 0.5)
WRITER = """
import sys, time
from pathlib import Path
from tocsin.delivery.handover import HandoverFolder
from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt
folder = HandoverFolder(Path(sys.argv[1]), "writer")
notes = folder.make_file()
notes.lock()
slots = [notes.claim(7, position, 100 + position) for position in range(4)]
notes.hand_over(slots[1])
notes.hand_over(slots[2])
notes.answer(slots[2], Receipt(outcome=Outcome.GONE, code="410 Unregistered"))
notes.hand_over(slots[3])
notes.answer(slots[3], Receipt(outcome=Outcome.ACCEPTED))
print("written", flush=True)
time.sleep(600)
"""
GONE = Receipt(outcome=Outcome.GONE, code="410 Unregistered")
WRITTEN = {
    (7, 0): [HandoverNote(Step.CLAIMED, 100)],
    (7, 1): [HandoverNote(Step.HANDED_OVER, 101)],
    (7, 2): [HandoverNote(Step.ANSWERED, 102, GONE)],
    (7, 3): [HandoverNote(Step.ANSWERED, 103, Receipt(outcome=Outcome.ACCEPTED))],
}


@contextlib.contextmanager
def writing(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has written notes and still lives."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A folder with the notes of a process that was killed."""
    with writing(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return tmp_path


def read(root: Path, owner: str = "writer") -> handover.Evidence | None:
    with read_evidence(root, owner, patience=0.1) as evidence:
        return evidence


def test_notes_survive_a_kill(dead: Path) -> None:
    assert list_owners(dead) == ["writer"]
    assert read(dead) == WRITTEN
    forget(dead, "writer")
    assert list_owners(dead) == []
    assert read(dead) is None


def test_the_living_are_not_believed(tmp_path: Path) -> None:
    """Not within the patience, and their notes are not deleted; once they are dead the same reader waits for that."""
    with writing(tmp_path) as process:
        start = time.monotonic()
        assert read(tmp_path) is None
        assert time.monotonic() - start >= 0.1
        forget(tmp_path, "writer")
        process.kill()
        with read_evidence(tmp_path, "writer") as evidence:
            assert evidence == WRITTEN


def test_who_reads_keeps_the_locks(dead: Path) -> None:
    """A sender that is only just starting, and another reader, come too late."""
    path = dead / "writer" / "1.notes"
    with read_evidence(dead, "writer") as evidence:
        assert evidence is not None
        with contextlib.closing(NoteFile(path)) as late:
            assert not late.lock()
        assert read(dead) is None
    assert read(dead) == WRITTEN


def test_a_sender_that_outlives_its_worker_is_waited_for(tmp_path: Path) -> None:
    """The worker's lock is free, its sender's is not: it may still hand over."""
    folder = HandoverFolder(tmp_path, "one")
    with contextlib.closing(folder.make_file()) as notes:
        assert notes.lock()
        folder.close(settled=False)
        assert read(tmp_path, "one") is None
    assert read(tmp_path, "one") == {}


@pytest.mark.parametrize("offset", [0, 8, 48], ids=["version", "boot", "slots"])
def test_another_boot_or_version(dead: Path, offset: int) -> None:
    with (dead / "writer" / "1.notes").open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    assert read(dead) is None


@pytest.mark.parametrize("size", [0, 64, SLOTS * 64])
def test_a_file_that_is_cut(dead: Path, size: int) -> None:
    os.truncate(dead / "writer" / "1.notes", size)
    assert read(dead) is None


def test_one_bad_file_spoils_the_folder(dead: Path) -> None:
    """Whose notes are missing nobody can tell."""
    (dead / "writer" / "2.notes").write_bytes(b"")
    assert read(dead) is None


def test_where_boots_have_no_name(dead: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "read_boot_id", lambda: "")
    folder = HandoverFolder(tmp_path, "nameless")
    folder.make_file().close()
    folder.close(settled=False)
    assert read(tmp_path, "nameless") is None
    assert read(dead) is None


def test_slots_are_used_again(tmp_path: Path) -> None:
    """What was in a slot before is not seen in the note after it."""
    with contextlib.closing(NoteFile(tmp_path / "notes", read_boot_id())) as notes:
        assert notes.unused
        slots = [notes.claim(1, position, position) for position in range(SLOTS)]
        assert (notes.room, len(notes.read())) == (0, SLOTS)
        for slot in slots:
            notes.answer(slot, Receipt(outcome=Outcome.REFUSED, code="x" * 30))
        notes.free(slots[:10])
        assert (notes.room, len(notes.read())) == (10, SLOTS - 10)
        slot = notes.claim(2, 5, 6)
        assert slot in slots[:10]
        assert notes.read()[2, 5] == [notes.read_one(slot)] == [HandoverNote(Step.CLAIMED, 6)]
        notes.answer(slot, Receipt(outcome=Outcome.REFUSED, code="y"))
        assert notes.read_one(slot).receipt == Receipt(outcome=Outcome.REFUSED, code="y")


@pytest.mark.parametrize(("code", "kept"), [("x" * 42, "x" * 42), ("x" * 100, "x" * 42), ("ü" * 22, "ü" * 21)])
def test_a_long_code_is_cut(tmp_path: Path, code: str, kept: str) -> None:
    """And the note beside it stays as it is."""
    with contextlib.closing(NoteFile(tmp_path / "notes", read_boot_id())) as notes:
        slots = [notes.claim(1, position, 0) for position in range(3)]
        notes.answer(slots[1], Receipt(outcome=Outcome.REFUSED, code=code))
        assert notes.read_one(slots[1]).receipt == Receipt(outcome=Outcome.REFUSED, code=kept)
        assert {notes.read_one(slots[place]) for place in (0, 2)} == {HandoverNote(Step.CLAIMED)}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_read_as_written(tmp_path: Path, outcome: Outcome) -> None:
    with contextlib.closing(NoteFile(tmp_path / "notes", read_boot_id())) as notes:
        slot = notes.claim(2**63, 2**31, 2**63)
        notes.answer(slot, Receipt(outcome=outcome))
        expected = HandoverNote(Step.ANSWERED, 2**63, Receipt(outcome=outcome))
        assert notes.read() == {(2**63, 2**31): [expected]}


# What notes make of a recipient.

NOTES = {
    "claimed": HandoverNote(Step.CLAIMED),
    "handed over": HandoverNote(Step.HANDED_OVER),
    **{name: HandoverNote(Step.ANSWERED, receipt=receipt) for name, receipt in RECEIPTS.items()},
}
RESEND = pytest.mark.parametrize("resend", [False, True], ids=["report", "resend"])


def rescue(notes: list[HandoverNote] | None, *, resend: bool) -> State:
    chunk = make_chunk(bytes([State.CLAIMED]))
    chunk.resend = resend
    rescue_recipient(chunk, 0, notes, RULES, NOW)
    return State(chunk.states[0])


def expect(names: list[str], *, resend: bool) -> State:
    """A doubt or an acceptance decides; else who has a device that was not tried waits; else the strongest answer."""
    known = ["unknown" if name == "handed over" else name for name in names if name != "claimed"]
    best = min(known, key=STRONGEST_FIRST.index, default="")
    if best == "unknown" and resend:
        return State.WAITING
    if best not in ("accepted", "unknown") and len(known) < len(names):
        return State.WAITING
    return ONE[best][0]


@RESEND
@pytest.mark.parametrize("name", NOTES)
def test_one_device(name: str, resend: bool) -> None:
    assert rescue([NOTES[name]], resend=resend) is expect([name], resend=resend)


@RESEND
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(NOTES, 2)))
def test_two_devices(first: str, second: str, resend: bool) -> None:
    """In either order."""
    expected = expect([first, second], resend=resend)
    assert rescue([NOTES[first], NOTES[second]], resend=resend) is expected
    assert rescue([NOTES[second], NOTES[first]], resend=resend) is expected


@RESEND
def test_no_notes(resend: bool) -> None:
    """None of theirs: never handed over. None that are believed: nobody knows."""
    assert rescue([], resend=resend) is State.WAITING
    assert rescue(None, resend=resend) is (State.WAITING if resend else State.UNKNOWN)


def test_who_was_not_handed_over_has_spent_no_try() -> None:
    chunk = make_chunk(bytes([State.CLAIMED]))
    rescue_recipient(chunk, 0, [NOTES["claimed"]], RULES, NOW)
    assert chunk.notes == {}
    assert chunk.waiting(NOW) == [0]


class Collected(list[Receipt | None]):
    """Who waits for receipts."""

    def collect(self, _message: Outgoing, receipt: Receipt | None) -> None:
        self.append(receipt)


def test_a_dead_sender_is_no_silence_of_the_vendor(tmp_path: Path) -> None:
    """Many answers lost at once by a death of ours pause no lane; people whose mail was not handed over go on."""
    credential = Credential("a", "fcm", "{}", 0.0)
    lane = Lane(credential, [], lambda: NOW, BreakerRules())
    collected = Collected()
    context = BatchContext("a", 1, b"{}", "1_20270115", "tocsin-1", NOW + 3600, "", SECRETS)
    with contextlib.closing(NoteFile(tmp_path / "notes", read_boot_id())) as notes:
        under_way = MessagesUnderWay(notes, 1000)
        pending = [PendingMessage(position, 0, Address("fcm", "x")) for position in range(300)]
        messages = [Outgoing(lane, "android", context, one, collected) for one in pending]
        under_way.claim(messages)
        lane.in_flight = len(messages)
        for one in messages[:200]:
            notes.hand_over(one.slot)
        under_way.report_loss()
    assert Counter(receipt.outcome for receipt in collected if receipt is not None) == {
        Outcome.UNKNOWN: 200,
        Outcome.THROTTLED: 100,
    }
    assert (lane.in_flight, lane.paused_until) == (0, 0.0)


async def test_notes_of_a_chunk_lost_by_a_bug_are_kept(tmp_path: Path) -> None:
    """Its recipients are claimed in the ledger until it is rescued. Without their notes a server killed meanwhile would
    have never handed them over. When the lease itself was lost, somebody has rescued it already."""
    context = BatchContext("a", 1, b"{}", "1_20270115", "tocsin-1", NOW + 3600, "", SECRETS)
    lane = Lane(Credential("a", "fcm", "{}", 0.0), [], lambda: NOW)
    with contextlib.closing(NoteFile(tmp_path / "notes", read_boot_id())) as notes:
        for keep_seconds in (0.02, 0.0):
            held = HeldChunk(make_chunk(bytes([State.CLAIMED])), DeliveryPlan(context, False, False, 1), lambda _: None)
            message = Outgoing(lane, "android", context, PendingMessage(0, 0, Address("fcm", "x")), held)
            message.notes, message.slot = notes, notes.claim(1, 0, 0)
            notes.hand_over(message.slot)
            held.lost, held.keep_seconds = True, keep_seconds
            held.collect(message, None)
            assert notes.unused is not bool(keep_seconds)
            if keep_seconds:
                await asyncio.sleep(2 * keep_seconds)
            assert notes.unused
