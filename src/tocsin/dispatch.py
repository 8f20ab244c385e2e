"""Stage 4 of 7, dispatch: a due run is frozen into chunks once; chunks are claimed, rendered, sent and settled.

The order of the commits is the promise. A window is committed as claimed before any of it is handed to a vendor; what
came of it is committed together with the next claim. So after a crash what is claimed may have been sent, and is
reported as unknown; everything else was either settled or never handed over.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Row

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.audience.members import stream_recipients
from tocsin.bell import Bell
from tocsin.campaign import Record, find_due, move_run, postpone_run, read_stored_spec
from tocsin.chunk import Chunk, Note, Recipients
from tocsin.content import Content, Envelope, Renderer, Unrenderable
from tocsin.ingest import refresh_profiles
from tocsin.lane import Lane, Lanes
from tocsin.outcome import FINAL, Outcome, State
from tocsin.pacing import Policy, Step, next_step
from tocsin.providers.contract import Address, Message, Receipt
from tocsin.recorder import record_outcomes, record_uninstalled
from tocsin.roster import Gone, Person, find_addresses, find_recipients, look_up, mark_gone, read_to
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.tracking import sign_push_id

log = structlog.get_logger()

POLL_SECONDS = 0.5
RETRY_SECONDS = 30.0  # before a run that could not begin is tried again
WINDOW_BYTES = 16 * 1024 * 1024  # of content rendered and in flight for one chunk
Clock = Callable[[], float]

# Of the receipts of one recipient's devices, the first of these is the recipient's.
PRECEDENCE = (
    *(Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE),
    *(Outcome.REFUSED, Outcome.GONE),
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a `/1/send` chunk keeps of its request."""

    to: dict[str, list[Any]]
    content: Content
    send_to_all_devices: bool = False


class Job(msgspec.Struct, frozen=True):
    """What all messages of a chunk share."""

    renderer: Renderer
    every_device: bool
    campaign: str  # the `wzrk_id`
    collapse: str
    window: int  # recipients at once


class Parcel(msgspec.Struct, frozen=True):
    """One message on its way: for which position, to which device, over which lane."""

    position: int
    device_id: int
    message: Message
    lane: Lane


class Losses(msgspec.Struct):
    """What a chunk's messages found dead. users: whose reach is less than it was. devices: rows of the ledger, as they
    were when they went."""

    users: set[int] = msgspec.field(default_factory=set)
    devices: list[Row[Any]] = msgspec.field(default_factory=list)


async def freeze_due(ledger: Ledger, facts: Facts, now: float, settings: Settings) -> int:
    """Freezes the runs whose time has come: the audience is asked once, and its chunks, the state and the numbers are
    one transaction. Answers how many runs began."""
    begun = 0
    for run in await ledger.read(lambda connection: find_due(connection, now)):
        try:
            begun += await _freeze(ledger, facts, run, now, settings)
        except Exception:
            log.exception("campaign cannot begin", account=run.account_id, campaign=run.campaign_id)
            await ledger.write(functools.partial(postpone_run, run_id=run.id, until=now + RETRY_SECONDS))
    return begun


async def _freeze(ledger: Ledger, facts: Facts, run: Record, now: float, settings: Settings) -> bool:
    spec = await ledger.read(lambda connection: read_stored_spec(connection, run.account_id, run.campaign_id))
    account = await ledger.read(lambda connection: Account.load(connection, run.account_id))

    def gather() -> Recipients:
        recipients = Recipients()
        for block in stream_recipients(facts, account, spec.where, spec.platforms, now, spec.users_limit):
            recipients.extend(block)
        return recipients

    recipients = await asyncio.to_thread(gather)
    lifetime = spec.message_seconds if spec.message_seconds is not None else settings.message_hours * 3600

    def write(connection: Connection) -> bool:
        if not move_run(connection, run.id, "running", now, frozen_at=now, audience=len(recipients)):
            return False  # stopped, or frozen by somebody else, in the meantime
        chunks.insert_run_chunks(
            connection,
            account_id=run.account_id,
            run_id=run.id,
            campaign_id=run.campaign_id,
            channel=spec.channel,
            recipients=recipients,
            expires_at=now + lifetime,
            now=now,
        )
        chunks.end_run(connection, run.id, now)
        return True

    begun = await ledger.write(write)
    if begun:
        log.info("campaign begun", account=run.account_id, campaign=run.campaign_id, audience=len(recipients))
    return begun


class Worker:
    """Delivers chunks, several side by side, until it is told to stop; then it finishes what is with the vendors."""

    def __init__(
        self, ledger: Ledger, facts: Facts, lanes: Lanes, settings: Settings, secret: bytes, clock: Clock, bell: Bell
    ):
        self._ledger = ledger
        self._facts = facts
        self._lanes = lanes
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._bell = bell
        self._stopping = False
        self._policy = Policy(settings.retry_floor, settings.retries)
        self._dice = random.Random()  # noqa: S311 - jitter, no secret
        self.owner = uuid.uuid4().hex

    def stop(self) -> None:
        """No new claims; what is with a vendor is waited for and settled."""
        self._stopping = True
        self._bell.ring()

    async def run(self) -> None:
        if self._ledger.embedded:  # one process has this ledger to itself: other owners are dead
            await self._ledger.write(lambda connection: chunks.release_dead(connection, self.owner))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.chunks_at_once):
                group.create_task(self._work())

    async def _work(self) -> None:
        while not self._stopping:
            try:
                chunk = await self._ledger.write(
                    lambda connection: chunks.lease_next(
                        connection, self.owner, self._clock(), self._settings.lease_seconds
                    )
                )
                if chunk is None:
                    await self._bell.wait(POLL_SECONDS)
                else:
                    await self.deliver(chunk)
            except Exception:
                # A bug or a store that is away. The lease runs out and the chunk is taken again: nothing is lost.
                log.exception("delivery interrupted")
                await self._bell.wait(POLL_SECONDS)

    async def deliver(self, chunk: Chunk) -> None:
        """Takes a leased chunk as far as it goes now, records what is final, and closes or releases it."""
        beating = asyncio.create_task(self._keep_lease(chunk))
        try:
            await self._deliver(chunk)
        finally:
            beating.cancel()

    async def _keep_lease(self, chunk: Chunk) -> None:
        """Renews the lease while vendors and stores think. When it is lost, the next commit finds out."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            until = self._clock() + self._settings.lease_seconds
            try:
                ours = await self._ledger.write(functools.partial(chunks.renew, chunk=chunk, until=until))
            except Exception:
                log.exception("lease not renewed", chunk=chunk.id)
                continue
            if not ours:
                return

    async def _deliver(self, chunk: Chunk) -> None:
        account = await self._ledger.read(lambda connection: Account.load(connection, chunk.account_id))
        if chunk.request is not None and not chunk.users and not await self._freeze_request(chunk):
            return
        job, losses = await self._read_job(chunk), Losses()
        try:
            ours = await self._send_windows(chunk, job, losses)
        finally:  # what was committed as gone is gone, however the rest went
            await self._record_losses(account, losses)
        if ours:
            await self._let_go(account, chunk)

    async def _send_windows(self, chunk: Chunk, job: Job, losses: Losses) -> bool:
        """Sends one window after the other until nothing is due, and adds to `losses`. False: the lease is lost."""
        gone: Gone = {}
        while True:
            parcels = await self._plan(chunk, job)
            claimed, went = await self._commit(chunk, parcels, gone)
            losses.users.update(gone, (device.gone_user for device in went))
            losses.devices.extend(went)
            if claimed is None:
                log.warning("lease lost", chunk=chunk.id)
                return False
            if claimed:
                receipts = await asyncio.gather(*(parcel.lane.send(parcel.message) for parcel in claimed))
                gone = self._apply(chunk, claimed, receipts)
            elif self._stopping or not chunk.waiting(self._clock()):
                return True
            else:
                gone = {}

    async def _let_go(self, account: Account, chunk: Chunk) -> None:
        await record_outcomes(self._facts, account, chunk)
        due = chunk.next_due()
        ended = await self._ledger.write(lambda connection: chunks.release(connection, chunk, self._clock(), due))
        if ended:
            log.info("campaign ended", account=chunk.account_id, campaign=chunk.campaign_id)

    async def _record_losses(self, account: Account, losses: Losses) -> None:
        """Raises `App Uninstalled`, and copies people whose devices died. The ledger has it already, and claims ask the
        ledger: a failure here makes an estimate a little too high and the event late, nothing else."""
        try:
            await record_uninstalled(self._facts, account, losses.devices)
            await refresh_profiles(self._ledger, self._facts, account.id, sorted(losses.users))
        except Exception:
            log.exception("dead devices not recorded; `tocsin repair` makes up for it", account=account.id)

    async def _freeze_request(self, chunk: Chunk) -> bool:
        request = msgspec.json.decode(chunk.request or "", type=Request)

        def freeze(connection: Connection) -> bool:
            pairs = find_recipients(connection, chunk.account_id, read_to(request.to), chunk.channel)
            return chunks.freeze_request(connection, chunk, pairs)

        return await self._ledger.write(freeze)

    async def _read_job(self, chunk: Chunk) -> Job:
        day = datetime.fromtimestamp(chunk.started_at, UTC).strftime("%Y%m%d")
        if chunk.request is not None:
            request = msgspec.json.decode(chunk.request, type=Request)
            name = f"s{chunk.id}"
            return self._job(request.content, request.send_to_all_devices, name, day)
        spec = await self._ledger.read(
            lambda connection: read_stored_spec(connection, chunk.account_id, chunk.campaign_id)
        )
        return self._job(spec.content, spec.send_to_all_devices, str(chunk.campaign_id), day)

    def _job(self, content: Content, every_device: bool, name: str, day: str) -> Job:
        window = min(self._settings.window, max(1, WINDOW_BYTES // (len(content.body) * 8 + 1)))
        renderer = _compiled(msgspec.json.encode(content))
        return Job(renderer, every_device, f"{name}_{day}", f"tocsin-{name}", window)

    async def _plan(self, chunk: Chunk, job: Job) -> list[Parcel]:
        """The next window: messages for those who can be reached, and a final state for those who cannot."""
        now = self._clock()
        if now >= chunk.expires_at:
            for position in chunk.waiting(float("inf")):
                self._end(chunk, position, State.EXPIRED, "too late", now)
            return []
        if self._stopping:
            return []
        lanes = await self._lanes.of(chunk.account_id)
        window = self._pick(chunk, lanes, job.window, now)
        users = sorted({chunk.users[position] for position in window})
        people = await self._ledger.read(lambda connection: look_up(connection, chunk.account_id, users))
        parcels: list[Parcel] = []
        for position in window:
            person = people.get(chunk.users[position])
            parcels.extend(self._pack(chunk, job, position, person, lanes, now))
        return parcels

    def _pick(self, chunk: Chunk, lanes: Mapping[str, Lane], limit: int, now: float) -> list[int]:
        """The positions to claim next: those whose lane is open."""
        window: list[int] = []
        for position in chunk.waiting(now):
            lane = lanes.get(chunks.PLATFORM_CODES[chunk.platforms[position]])
            if lane is None:
                chunk.move(position, State.NO_PROVIDER)
            elif lane.paused_until > now:
                chunk.notes.setdefault(position, Note()).not_before = lane.paused_until
            else:
                window.append(position)
                if len(window) == limit:
                    break
        return window

    def _pack(
        self, chunk: Chunk, job: Job, position: int, person: Person | None, lanes: Mapping[str, Lane], now: float
    ) -> list[Parcel]:
        """The messages of one recipient; none, and a final state, where there is a reason not to send."""
        platform = chunks.PLATFORM_CODES[chunk.platforms[position]]
        addresses = find_addresses(person, platform, every_device=job.every_device)
        if isinstance(addresses, State):
            chunk.move(position, addresses)
            return []
        assert person is not None
        parcels: list[Parcel] = []
        try:
            for device_id, address in addresses:
                envelope = self._address(chunk, job, position, device_id, address)
                message = job.renderer.render(platform, person.profile, envelope)
                parcels.append(Parcel(position, device_id, message, lanes[platform]))
        except Unrenderable as error:
            self._end(chunk, position, State.REFUSED, f"template: {error}", now)
            return []
        return parcels

    def _address(self, chunk: Chunk, job: Job, position: int, device_id: int, address: Address) -> Envelope:
        # The same id on every attempt at this recipient and device.
        name = f"{chunk.id}:{position}:{device_id}".encode()
        return Envelope(
            id=str(uuid.UUID(bytes=hashlib.blake2b(name, digest_size=16, key=self._secret).digest(), version=4)),
            collapse=job.collapse,
            campaign=job.campaign,
            push_id=sign_push_id(self._secret, chunk.id, position),
            address=address,
            expires_at=int(chunk.expires_at),
        )

    async def _commit(
        self, chunk: Chunk, parcels: Sequence[Parcel], gone: Gone
    ) -> tuple[Sequence[Parcel] | None, Sequence[Row[Any]]]:
        """Commits what is settled, forgets dead addresses, and claims the parcels' recipients. None: the lease is lost,
        send nothing. Beside it the devices that went."""

        def commit(connection: Connection) -> tuple[Sequence[Parcel] | None, Sequence[Row[Any]]]:
            claimed = parcels
            if chunks.is_stopped(connection, chunk.run_id):
                for position in chunk.waiting(float("inf")):
                    chunk.move(position, State.STOPPED)
                claimed = []
            for position in {parcel.position for parcel in claimed}:
                chunk.move(position, State.CLAIMED)
            now = self._clock()
            went = mark_gone(connection, chunk.account_id, gone, now, chunk.campaign_id)
            ours = chunks.settle(connection, chunk, now, self._settings.lease_seconds)
            return (claimed if ours else None), went

        return await self._ledger.write(commit)

    def _apply(self, chunk: Chunk, parcels: Sequence[Parcel], receipts: Sequence[Receipt]) -> Gone:
        """Turns receipts into states; answers the addresses that turned out dead."""
        now = self._clock()
        by_position: dict[int, list[Receipt]] = {}
        gone: dict[int, list[tuple[int, Address, str]]] = {}
        for parcel, receipt in zip(parcels, receipts, strict=True):
            by_position.setdefault(parcel.position, []).append(receipt)
            if receipt.outcome is Outcome.GONE:
                dead = (parcel.device_id, parcel.message.address, receipt.code)
                gone.setdefault(chunk.users[parcel.position], []).append(dead)
        for position, answers in by_position.items():
            best = min(answers, key=lambda answer: PRECEDENCE.index(answer.outcome))
            tries = chunk.notes[position].tries if position in chunk.notes else 0
            step = next_step(best, tries, now, chunk.expires_at, self._policy, self._dice.random())
            self._step(chunk, position, step, best.code, now)
        return gone

    def _step(self, chunk: Chunk, position: int, step: Step, code: str, now: float) -> None:
        if step.state is State.WAITING:
            chunk.move(position, State.WAITING)
            chunk.notes[position] = Note(tries=step.tries, code=code, not_before=step.not_before)
        elif step.state is State.ACCEPTED and position not in chunk.notes:
            chunk.move(position, State.ACCEPTED)
        else:
            self._end(chunk, position, step.state, code, now, step.tries)

    def _end(self, chunk: Chunk, position: int, state: State, code: str, now: float, tries: int = 0) -> None:
        """A final state that needs a word, or came later than the chunk's first try."""
        assert state in FINAL
        chunk.move(position, state)
        at = now if position in chunk.notes or tries == 0 else 0.0
        chunk.notes[position] = Note(tries=tries, code="" if state is State.ACCEPTED else code, at=at)


@functools.lru_cache(maxsize=64)
def _compiled(content: bytes) -> Renderer:
    """The templates of a content, compiled once for all chunks of a campaign."""
    return Renderer(msgspec.json.decode(content, type=Content))
