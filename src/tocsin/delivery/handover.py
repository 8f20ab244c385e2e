"""Hand-over notes: how far each message under way has come, where a `kill -9` of every process cannot lose it.

A sender process has a file of notes, mapped into memory. It marks a message before its bytes can leave, and again once
its answer is read. Pages of a mapped file survive the death of every process, without a sync; they do not survive the
machine. So the file names the boot it was written under, and counts for nothing under another.

Whoever reads the notes of a dead process first takes the locks it held: a process that may still hand messages over
has them, and its notes are not believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

import msgspec

from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt

SLOTS = 8192  # messages of one sender between their claim and their settlement: half a megabyte
LOCK = "worker.lock"  # held by the worker as long as it lives
PATIENCE_SECONDS = 5.0  # for a dead worker's senders to end
POLL_SECONDS = 0.02

_MAGIC = b"tocsin01"
_HEADER = struct.Struct("<8s40sI12x")
_RENDERED = struct.Struct("<I")  # in the header's last bytes: the slot whose message is being rendered
_RENDERED_AT = 52
_CLAIM = struct.Struct("<QQIBB")  # chunk, device, position, step, length of the code
_SLOT = 64
_STEP = 20  # where in a slot
_CODE = 22
_OUTCOMES = tuple(Outcome)


class Step(IntEnum):
    """How far a message has come."""

    CLAIMED = 0  # not a byte of it has left
    HANDED_OVER = 1  # bytes may have left
    ANSWERED = 2  # and every number above, which is the outcome's


class HandoverNote(msgspec.Struct, frozen=True):
    """How far one message of a recipient has come. receipt: the vendor's answer, where one was read."""

    step: Step
    device_id: int = 0
    receipt: Receipt | None = None


# The notes of one dead worker by chunk and position. A recipient who is not in them was never handed over.
Evidence = Mapping[tuple[int, int], Sequence[HandoverNote]]


class NoteFile:
    """One sender's notes. The worker takes a slot for each message and frees it when its result is committed; the
    sender writes how far the message has come."""

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        """Open a file of notes; with a boot id make it."""
        self.path = path
        flags = os.O_RDWR if boot_id is None else os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(path, flags, 0o600)
        if boot_id is not None:
            os.ftruncate(self._descriptor, (SLOTS + 1) * _SLOT)
        self._bytes = mmap.mmap(self._descriptor, (SLOTS + 1) * _SLOT)
        if boot_id is not None:
            _HEADER.pack_into(self._bytes, 0, _MAGIC, boot_id.encode(), SLOTS)
        self._free = list(range(SLOTS, 0, -1))

    @property
    def room(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def unused(self) -> bool:
        """Whether every slot is free."""
        return len(self._free) == SLOTS

    def claim(self, chunk_id: int, position: int, device_id: int) -> int:
        """Take a slot for a message that is claimed in the ledger."""
        slot = self._free.pop()
        _CLAIM.pack_into(self._bytes, slot * _SLOT, chunk_id, device_id, position, Step.CLAIMED, 0)
        return slot

    def free(self, slots: Sequence[int]) -> None:
        """Give back slots whose messages are settled in the ledger."""
        for slot in slots:
            _CLAIM.pack_into(self._bytes, slot * _SLOT, 0, 0, 0, 0, 0)
        self._free.extend(slots)

    def render(self, slot: int) -> None:
        """Note which message is being rendered; 0: none is."""
        _RENDERED.pack_into(self._bytes, _RENDERED_AT, slot)

    @property
    def rendered(self) -> int:
        """The slot of the message that is being rendered, or was when its sender died; 0: none."""
        (slot,) = _RENDERED.unpack_from(self._bytes, _RENDERED_AT)
        return int(slot)

    def hand_over(self, slot: int) -> None:
        """Note that bytes of a message may leave from now on."""
        self._bytes[slot * _SLOT + _STEP] = Step.HANDED_OVER

    def answer(self, slot: int, receipt: Receipt) -> None:
        """Note what came of a message."""
        start = slot * _SLOT
        if receipt.code:
            code = receipt.code.encode()[: _SLOT - _CODE]
            self._bytes[start + _CODE : start + _CODE + len(code)] = code
            self._bytes[start + _STEP + 1] = len(code)
        self._bytes[start + _STEP] = Step.ANSWERED + _OUTCOMES.index(receipt.outcome)  # last: now the code is whole

    def read(self) -> dict[tuple[int, int], list[HandoverNote]]:
        """Return the notes of every claimed message, by chunk and position."""
        notes: dict[tuple[int, int], list[HandoverNote]] = {}
        for slot in range(1, SLOTS + 1):
            chunk_id, device_id, position, step, size = _CLAIM.unpack_from(self._bytes, slot * _SLOT)
            if chunk_id:
                code = self._bytes[slot * _SLOT + _CODE : slot * _SLOT + _CODE + size]
                notes.setdefault((chunk_id, position), []).append(_read_note(step, device_id, code))
        return notes

    def read_one(self, slot: int) -> HandoverNote:
        """Return the note of one message."""
        _, device_id, _, step, size = _CLAIM.unpack_from(self._bytes, slot * _SLOT)
        return _read_note(step, device_id, self._bytes[slot * _SLOT + _CODE : slot * _SLOT + _CODE + size])

    def is_of(self, boot_id: str) -> bool:
        """Return whether the notes were written under this boot. "" is no boot's id."""
        magic, written, slots = _HEADER.unpack_from(self._bytes, 0)
        own = written.rstrip(b"\0").decode("ascii", "replace")
        return magic == _MAGIC and slots == SLOTS and own == boot_id and boot_id != ""

    def lock(self) -> bool:
        """Become the process that may hand messages over, or the one that knows that no other may. Return whether no
        other process is. Held until the process ends or `close`."""
        return _lock(self._descriptor)

    def close(self) -> None:
        self._bytes.close()
        os.close(self._descriptor)

    def remove(self) -> None:
        """Close the file and delete it: all its messages are settled."""
        self.close()
        self.path.unlink(missing_ok=True)


class HandoverFolder:
    """The notes of one worker: a folder with a file a sender. Locked as long as the worker lives."""

    def __init__(self, root: Path, owner: str) -> None:
        self._boot_id = read_boot_id()
        self._folder = root / owner
        unlocked = root / f".{owner}"  # nobody looks into it before it is locked
        unlocked.mkdir(parents=True, mode=0o700)
        self._descriptor = os.open(unlocked / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        _lock(self._descriptor)
        unlocked.rename(self._folder)
        self._made = 0

    def make_file(self) -> NoteFile:
        """Return a new file of notes for one sender."""
        self._made += 1
        return NoteFile(self._folder / f"{self._made}.notes", self._boot_id)

    def close(self, *, settled: bool) -> None:
        """Let go of the folder. settled: nothing is claimed any more, so that the notes can go."""
        os.close(self._descriptor)
        if settled:
            shutil.rmtree(self._folder, ignore_errors=True)


def read_boot_id() -> str:
    """Return what names this boot of this machine; "" where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def list_owners(root: Path) -> list[str]:
    """Return the workers, dead or alive, that have a folder of notes."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


@contextlib.contextmanager
def read_evidence(root: Path, owner: str, patience: float = PATIENCE_SECONDS) -> Iterator[Evidence | None]:
    """Give the notes of a dead worker, and keep its locks meanwhile. None: there are none to be believed, because they
    are of another boot or host, or because a process of that worker is still alive after `patience` seconds."""
    folder = root / owner
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        yield _read_folder(folder, deadline, stack) if folder.is_dir() else None


def forget(root: Path, owner: str) -> None:
    """Delete the notes of a worker of whom nothing is claimed any more, unless it is alive."""
    with contextlib.suppress(OSError), contextlib.closing(_open_lock(root / owner)) as lock:
        if _lock(lock.fileno()):
            shutil.rmtree(root / owner, ignore_errors=True)


def _read_folder(folder: Path, deadline: float, stack: contextlib.ExitStack) -> Evidence | None:
    try:
        lock = stack.enter_context(contextlib.closing(_open_lock(folder)))
        if not _wait_for(lambda: _lock(lock.fileno()), deadline):
            return None
        notes: dict[tuple[int, int], list[HandoverNote]] = {}
        for path in sorted(folder.glob("*.notes")):
            file = stack.enter_context(contextlib.closing(NoteFile(path)))
            if not file.is_of(read_boot_id()) or not _wait_for(file.lock, deadline):
                return None
            for key, found in file.read().items():
                notes.setdefault(key, []).extend(found)
    except (OSError, ValueError):  # a file that is cut short, or of another version
        return None
    return notes


def _read_note(step: int, device_id: int, code: bytes) -> HandoverNote:
    if step < Step.ANSWERED:
        return HandoverNote(Step(step), device_id)
    outcome = _OUTCOMES[step - Step.ANSWERED]
    return HandoverNote(Step.ANSWERED, device_id, Receipt(outcome=outcome, code=code.decode("utf-8", "replace")))


def _open_lock(folder: Path) -> BinaryIO:
    return (folder / LOCK).open("r+b")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _wait_for(ready: Callable[[], bool], deadline: float) -> bool:
    """Return whether something is ready before a deadline. Blocks, in a thread of the worker's: a lock of another
    process can only be asked for."""
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
