"""The senders of a worker: processes of `sender.py`, or with none of them a task in this process; and the lanes of all
accounts over them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import structlog

from tocsin.delivery.batch import Batch, BatchContext
from tocsin.delivery.circuit_breaker import NO_RULES, BreakerRules
from tocsin.delivery.handover import HandoverFolder, HandoverNote, NoteFile, Step
from tocsin.delivery.in_flight import LEAST_AT_ONCE
from tocsin.delivery.lane import Lane, Outgoing
from tocsin.delivery.outgoing import Answers, OutgoingLanes, make_provider, name_lane
from tocsin.delivery.sender import SenderRequest
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Credential, Provider, Receipt
from tocsin.providers.transport import Transport
from tocsin.store.child_process import kill, read_frame, start_child, write_frame

log = structlog.get_logger()

HANG_SECONDS = 900.0  # for one message; a sender that needs longer hangs, and is ended
SILENT_SECONDS = 15.0  # of a sender that has messages and says nothing: it hangs in the rendering of one
CHECK_SECONDS = 3.0
READY_SECONDS = 30.0
URGENT_SHARE = 4  # what waits in a sender may be so much more for requests: a campaign fills all it is given
SPARE_SLOTS = 2048  # for recipients with more devices than there is room for
TROUBLE_SECONDS = 1.0  # before a sender that ended is started again
LOST = Receipt(outcome=Outcome.UNKNOWN, code="sender lost")
NOT_SENT = Receipt(outcome=Outcome.THROTTLED, code="sender lost", retry_after=1.0)  # spends no try
TOO_LONG = Receipt(outcome=Outcome.REFUSED, code="template: took too long")


class MessagesUnderWay:
    """The messages of one file of notes, by slot, from their claim to their answer; and the room for more."""

    def __init__(self, notes: NoteFile, ahead: int) -> None:
        self.notes = notes
        self._ahead = ahead  # messages of a lane that wait in the sender, so that it need not wait for a commit
        self._by_slot: dict[int, tuple[Outgoing, float]] = {}
        self._in_flight: Counter[str] = Counter()  # by lane
        self._at_once: dict[str, int] = {}

    def room(self, credential: Credential, *, urgent: bool) -> int:
        """Return how many more messages of a lane may be claimed. Campaigns leave some room to what is urgent."""
        name = name_lane(credential)
        ahead = self._ahead + (self._ahead // URGENT_SHARE if urgent else 0)
        free = self._at_once.get(name, LEAST_AT_ONCE) + ahead - self._in_flight[name]
        return max(0, min(free, self.notes.room - SPARE_SLOTS))

    def claim(self, messages: Sequence[Outgoing]) -> None:
        """Take a slot for each message."""
        now, notes = time.monotonic(), self.notes
        for one in messages:
            one.slot, one.notes = notes.claim(one.context.chunk_id, one.message.position, one.message.device_id), notes
            self._by_slot[one.slot] = one, now
        if messages:
            self._in_flight[name_lane(messages[0].lane.credential)] += len(messages)

    def report(self, answers: Answers) -> None:
        """Pass on what a sender reports, to the lane of each message."""
        self._at_once |= answers.at_once
        take = self._take
        accepted: dict[Lane, list[Outgoing]] = defaultdict(list)
        answered: dict[Lane, list[tuple[Outgoing, Receipt]]] = defaultdict(list)
        held: dict[Lane, list[tuple[Outgoing, Receipt]]] = defaultdict(list)
        for slot in answers.accepted:
            message = take(slot)
            accepted[message.lane].append(message)
        for slot, receipt in answers.answered:
            message = take(slot)
            answered[message.lane].append((message, receipt))
        for slot, receipt in answers.held:
            message = take(slot)
            held[message.lane].append((message, receipt))
        for lane in dict.fromkeys((*accepted, *answered, *held)):
            lane.receive(accepted.get(lane, ()), answered.get(lane, ()), held.get(lane, ()))

    def report_loss(self, *, hung: bool = False) -> None:
        """Pass on what the notes say of every message whose sender is dead. Only answers of the vendor are weighed by
        the lane: those that a death of ours has lost are no silence of the vendor's. hung: it was ended because it said
        nothing, so the message that it was rendering is not tried again."""
        answers, culprit = Answers(), self.notes.rendered if hung else 0
        for slot in self._by_slot:
            note = self.notes.read_one(slot)
            receipt = TOO_LONG if slot == culprit and note.step is Step.CLAIMED else judge_loss(note)
            if receipt.outcome is Outcome.ACCEPTED:
                answers.accepted.append(slot)
            elif note.step is Step.ANSWERED:
                answers.answered.append((slot, receipt))
            else:
                answers.held.append((slot, receipt))
        self.report(answers)

    @property
    def oldest(self) -> float:
        """Since when the oldest message is under way, in monotonic seconds."""
        return next((since for _, since in self._by_slot.values()), float("inf"))

    def __len__(self) -> int:
        return len(self._by_slot)

    def _take(self, slot: int) -> Outgoing:
        message, _ = self._by_slot.pop(slot)
        self._in_flight[name_lane(message.lane.credential)] -= 1
        return message


def judge_loss(note: HandoverNote) -> Receipt:
    """Return what is certain about a message whose sender is dead and whose worker lives."""
    return note.receipt or (NOT_SENT if note.step is Step.CLAIMED else LOST)


def make_batch(messages: Sequence[Outgoing], *, urgent: bool) -> Batch:
    """Return the batch of messages whose slots are taken."""
    contexts: dict[int, int] = {}
    listed: list[BatchContext] = []
    places: list[int] = []
    for one in messages:
        place = contexts.setdefault(id(one.context), len(listed))
        if place == len(listed):
            listed.append(one.context)
        places.append(place)
    slots = [one.slot for one in messages]
    return Batch(messages[0].platform, listed, places, slots, [one.message for one in messages], urgent)


class SenderProcess:
    """One sender process, as the worker sees it: started with the worker, and again after it died."""

    def __init__(self, folder: HandoverFolder, ahead: int, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._ahead = ahead
        self._on_change = on_change
        self._under_way: MessagesUnderWay | None = None  # None: it is not up
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._old: list[NoteFile] = []  # of dead processes, until their messages are settled
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._heard = 0.0  # when it last reported, in monotonic seconds
        self._hung = False

    async def start(self) -> None:
        """Start the process, and return when it is up. Raises TimeoutError."""
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(READY_SECONDS):
            await self._ready.wait()

    @property
    def up(self) -> bool:
        return self._under_way is not None

    def room(self, credential: Credential, *, urgent: bool) -> int:
        return 0 if self._under_way is None else self._under_way.room(credential, urgent=urgent)

    @property
    def slots(self) -> int:
        return 0 if self._under_way is None else self._under_way.notes.room

    def claim(self, messages: Sequence[Outgoing]) -> None:
        assert self._under_way is not None
        self._under_way.claim(messages)

    def send(self, credential: Credential, messages: Sequence[Outgoing], *, urgent: bool) -> None:
        self._write(SenderRequest(credential, make_batch(messages, urgent=urgent)))

    def hold(self, credential: Credential, until: float) -> None:
        self._write(SenderRequest(credential, None, until))

    @property
    def settled(self) -> bool:
        """Whether no slot is taken."""
        up = () if self._under_way is None else (self._under_way.notes,)
        return all(notes.unused for notes in (*up, *self._old))

    def check(self) -> None:
        """End the process when it hangs: a message has been under way for HANG_SECONDS, or nothing was heard of any for
        SILENT_SECONDS. Forget notes that are settled."""
        if self._under_way is not None:
            now, oldest = time.monotonic(), self._under_way.oldest
            silent = now - max(self._heard, oldest) > SILENT_SECONDS
            if silent or now - oldest > HANG_SECONDS:
                log.error("a sender hangs and is ended", rendering=bool(self._under_way.notes.rendered))
                self._hung = silent
                self._kill()
        for notes in [one for one in self._old if one.unused]:
            self._old.remove(notes)
            notes.remove()

    def _write(self, request: SenderRequest) -> None:
        if self._writer is not None:  # after a death `_run` says what became of the messages
            write_frame(self._writer, msgspec.msgpack.encode(request))

    async def _run(self) -> None:
        while True:
            try:
                await self._run_once()
            except Exception:
                log.exception("a sender failed")
            await asyncio.sleep(TROUBLE_SECONDS)

    async def _run_once(self) -> None:
        """Start a process, read its reports until it ends, and report what its notes say of the rest."""
        notes = self._folder.make_file()
        self._process, reader, writer = await start_child("tocsin.delivery.sender", str(notes.path))
        decoder = msgspec.msgpack.Decoder(Answers)
        under_way = MessagesUnderWay(notes, self._ahead)
        self._hung = False
        try:
            while frame := await read_frame(reader):
                self._heard = time.monotonic()
                if self._under_way is None:
                    self._under_way, self._writer = under_way, writer
                    self._ready.set()
                    self._on_change()
                under_way.report(decoder.decode(frame))
        finally:
            self._under_way = self._writer = None
            writer.close()
            self._kill()
            await self._process.wait()
            if len(under_way):
                log.error("a sender died; its notes say what it had sent", messages=len(under_way))
            under_way.report_loss(hung=self._hung)
            self._old.append(notes)

    def _kill(self) -> None:
        if self._process is not None:
            kill(self._process)

    async def aclose(self) -> None:
        """End the process; what it has under way is as its notes say."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class LocalSender:
    """Sends from this process. make: returns a credential's provider."""

    def __init__(
        self,
        notes: NoteFile,
        ahead: int,
        make: Callable[[Credential], Provider | None],
        clock: Callable[[], float],
    ) -> None:
        notes.lock()
        self._notes = notes
        self._lanes = OutgoingLanes(make, notes, self._open_report, clock)
        self._under_way = MessagesUnderWay(notes, ahead)
        self._answers = Answers()
        self._reporting: asyncio.Handle | None = None

    @property
    def up(self) -> bool:
        return True

    @property
    def settled(self) -> bool:
        return self._notes.unused

    def room(self, credential: Credential, *, urgent: bool) -> int:
        return self._under_way.room(credential, urgent=urgent)

    @property
    def slots(self) -> int:
        return self._notes.room

    def claim(self, messages: Sequence[Outgoing]) -> None:
        self._under_way.claim(messages)

    def send(self, credential: Credential, messages: Sequence[Outgoing], *, urgent: bool) -> None:
        self._lanes.get(credential).put(make_batch(messages, urgent=urgent))

    def hold(self, credential: Credential, until: float) -> None:
        self._lanes.get(credential).hold(until)

    def check(self) -> None:
        """Nothing: what hangs here hangs the worker."""

    def _open_report(self) -> Answers:
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_soon(self._report)
        return self._answers

    def _report(self) -> None:
        answers, self._answers, self._reporting = self._answers, Answers(), None
        self._under_way.report(answers)

    async def aclose(self) -> None:
        """End what is under way; it is as its notes say."""
        await self._lanes.aclose()
        if self._reporting is not None:
            self._reporting.cancel()
        self._under_way.report(self._answers)
        self._under_way.report_loss()
        self._notes.close()


class SenderPool:
    """The senders of a worker and the lanes of every account over them. processes: how many; 0: in this process, where
    `make` returns a credential's provider."""

    def __init__(
        self,
        processes: int,
        ahead: int,
        clock: Callable[[], float],
        rules: BreakerRules = NO_RULES,
        make: Callable[[Credential], Provider | None] | None = None,
    ):
        self._count = processes
        self._ahead = ahead
        self._clock = clock
        self._rules = rules
        self._transport = Transport()
        self._make = make or functools.partial(make_provider, self._transport)
        self._senders: list[SenderProcess | LocalSender] = []
        self._lanes: dict[str, Lane] = {}
        self._checking: asyncio.Task[None] | None = None

    async def start(self, folder: HandoverFolder, on_change: Callable[[], None]) -> None:
        """Start the senders, and return when they are up. on_change: called when one comes back. Raises
        TimeoutError."""
        if self._count:
            processes = [SenderProcess(folder, self._ahead, on_change) for _ in range(self._count)]
            self._senders.extend(processes)
            await asyncio.gather(*(one.start() for one in processes))
            self._checking = asyncio.create_task(self._check_regularly())
        else:
            self._senders.append(LocalSender(folder.make_file(), self._ahead, self._make, self._clock))

    def lanes_of(self, credentials: Sequence[Credential]) -> Mapping[str, Lane]:
        """Return an account's lanes by platform. A platform without one has no provider set."""
        return {BY_NAME[one.name].platform: self.find_lane(one) for one in credentials}

    def find_lane(self, credential: Credential) -> Lane:
        """Return the lane of a credential: made when first asked for, and again after its row changed."""
        name = name_lane(credential)
        lane = self._lanes.get(name)
        if lane is None or lane.credential != credential:
            lane = self._lanes[name] = Lane(credential, self._senders, self._clock, self._rules)
        return lane

    def list_lanes(self, account_id: str, platforms: Collection[str]) -> list[Lane]:
        """Return the lanes of an account to some platforms, as far as they were made."""
        names = [name for name, one in BY_NAME.items() if one.platform in platforms]
        return [lane for name in names if (lane := self._lanes.get(f"{account_id}/{name}")) is not None]

    def find_current(self, credentials: Sequence[Credential]) -> Mapping[str, Lane] | None:
        """Return an account's lanes as `lanes_of` does, when they are there and their rows have not changed; else None.
        From any thread."""
        lanes: dict[str, Lane] = {}
        for one in credentials:
            lane = self._lanes.get(name_lane(one))
            if lane is None or lane.credential != one:
                return None
            lanes[BY_NAME[one.name].platform] = lane
        return lanes

    @property
    def settled(self) -> bool:
        """Whether no slot of a hand-over note is taken: the result of every message is committed."""
        return all(sender.settled for sender in self._senders)

    async def _check_regularly(self) -> None:
        """End senders that hang."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for sender in self._senders:
                sender.check()

    async def stop(self) -> None:
        """End every sender. What a lane knows of its vendor stays."""
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        senders = list(self._senders)
        self._senders.clear()
        for sender in senders:
            await sender.aclose()

    async def aclose(self) -> None:
        """End every sender and close every connection."""
        await self.stop()
        await self._transport.aclose()
