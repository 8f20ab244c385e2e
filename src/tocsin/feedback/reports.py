"""Reports of views and clicks, as many as come: gathered for a moment, then stored together.

A report is answered when both stores have it. While one block is written the next one gathers, so under load a block
grows and a report costs little; alone it waits for nobody. Accounts take turns in a block, and each has its share of
the places. What is reported again costs no store, as long as it is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import prometheus_client
import structlog

from tocsin import metrics
from tocsin.errors import Problem
from tocsin.feedback.first_reports import First, Heard, Key, find_refusing, keep_first
from tocsin.feedback.interactions import (
    EVENTS,
    MACHINE,
    find_cleaned_message,
    record_sent,
    require_younger,
)
from tocsin.feedback.report_log import ReportLog
from tocsin.feedback.sent_chunks import SentChunk, SentChunks
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.patience import Patience

log = structlog.get_logger()

Way = Literal["track", "app", "link", "pixel"]
BY_MAIL: tuple[Way, ...] = ("link", "pixel")
Result = Literal["counted", "machine", "repeated", "stale", "off", "unsent", "unknown", "forged", "full"]

COUNTED: tuple[Result, ...] = ("counted", "machine")

BLOCK = 2000  # reports that are stored together
# An insert into facts costs about the same for one row and for a thousand. So after a block of MANY the next one
# gathers for as long as REST inserts take.
MANY, REST, LONGEST_REST = 50, 3.0, 0.75
PLACES, SHARE = 32_768, 4  # reports that wait, of all accounts; of one of them a quarter
ANSWERED_AT_ONCE = 128  # of a block, in one turn of the event loop: others have theirs in between
REMEMBERED = 50_000  # reports that are stored, of which a repeat is known at once; some 10 MB
OLD_AT_ONCE = 4  # reports about messages that the ledger has forgotten: each asks facts
OLD_WAITING = 256
WAIT_SECONDS = 1.0  # for a report that is stored all the same
NOT_OURS = "id is not of a message this server sent (at $.id)"
TOO_MANY = "Too many reports are waiting; try again"
_RESULTS: dict[int, Result] = {410: "stale", 429: "full"}


class _Gathered(msgspec.Struct):
    """A report that is to be stored, and those of the same that came meanwhile. done: for whoever waits for it."""

    way: Way
    heard: Heard
    chunk: SentChunk
    done: asyncio.Future[Result]
    repeats: list[tuple[Way, asyncio.Future[Result]]] = []


class Reports:
    """Takes reports, and tells metric and log what became of each. report_days: after a message, for its reports."""

    def __init__(self, ledger: Ledger, facts: Facts, report_days: float):
        self._ledger, self._facts, self._days = ledger, facts, report_days
        self._chunks = SentChunks(ledger)
        self._log = ReportLog()
        self._waiting: dict[str, deque[_Gathered]] = {}
        self._under_way: dict[Key, _Gathered] = {}
        self._held = Counter[str]()
        self._stored: OrderedDict[Key, None] = OrderedDict()
        self._storing: asyncio.Task[None] | None = None
        self._stored_at, self._last_size = float("-inf"), 0  # when the last block was begun, by the loop's clock
        self._insert_seconds = 0.0  # of the last block
        self._tasks: set[asyncio.Task[None]] = set()
        self._old = asyncio.Semaphore(OLD_AT_ONCE)
        self._old_waiting = 0
        self._waits = Patience(WAIT_SECONDS)

    def note(self, way: Way, result: Result, now: float, account_id: str = "") -> None:
        """Count a report, and leave a line where it changed nothing."""
        _find_counter(way, result).inc()
        if result not in COUNTED:
            self.tell(way, result, now, account_id)

    def tell(self, way: Way, result: str, now: float, account_id: str = "") -> None:
        """Leave a line about a report that changed nothing, or about many of them."""
        self._log.tell(way, result, account_id, now)

    async def take(self, way: Way, kind: str, chunk_id: int, position: int, now: float, *, of: str = "") -> Result:
        """Store that a message was viewed or clicked (`kind` is one of EVENTS), whose signed id was read. of: the
        account it has to be of. Return what became of it. Raise Problem 400 for a message that is not known, 410 for
        one that is too old, and 429 when too many reports of its account wait."""
        key = Key(chunk_id, position, kind)
        chunk = self._chunks.get(chunk_id) or await self._chunks.read(chunk_id)
        if chunk is not None:
            found = self._judge(way, key, chunk, now, of)
            return found if isinstance(found, str) else await found
        try:
            result = await self._take_old(way, key, now, of)
        except Problem as problem:
            self.note(way, _name_problem(problem), now)
            raise
        self.note(way, result, now)
        return result

    def start(self, way: Way, kind: str, chunk_id: int, position: int, now: float) -> asyncio.Future[Any] | None:
        """Take a report whose result nobody asks for. Return what is done when it is stored or cannot be, cancelled
        after WAIT_SECONDS; whoever waits no more may cancel it too. None when there is nothing to wait for."""
        key = Key(chunk_id, position, kind)
        chunk = self._chunks.get(chunk_id)
        if chunk is None:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._chunks.ask(chunk_id).add_done_callback(functools.partial(self._start_read, way, key, now, done))
        else:
            try:
                found = self._judge(way, key, chunk, now)
            except Problem:
                return None
            if isinstance(found, str):
                return None
            done = found
        self._waits.begin(done.cancel)
        return done

    def _start_read(
        self, way: Way, key: Key, now: float, done: asyncio.Future[Any], asked: asyncio.Future[SentChunk | None]
    ) -> None:
        """Take a report once its chunk was read, and set what waits for it."""
        found: Result | asyncio.Future[Any] = "unknown"
        if asked.cancelled() or (error := asked.exception()):
            log.error("a report is lost", way=way, reason="no chunk" if asked.cancelled() else type(error).__name__)
        elif (chunk := asked.result()) is None:
            found = asyncio.create_task(self._take_quietly(way, key, now))
            self._tasks.add(found)
            found.add_done_callback(self._tasks.discard)
        else:
            with contextlib.suppress(Problem):  # metric and log have it
                found = self._judge(way, key, chunk, now)
        if isinstance(found, str):
            _end(done)
        else:
            found.add_done_callback(functools.partial(_end, done))

    async def _take_quietly(self, way: Way, key: Key, now: float) -> None:
        """Take a report about a message of which only facts know whom it went to; metric and log have what it came
        to."""
        try:
            self.note(way, await self._take_old(way, key, now, ""), now)
        except Problem as problem:
            self.note(way, _name_problem(problem), now)
        except Exception as error:
            log.error("a report is lost", way=way, reason=type(error).__name__)

    def _judge(self, way: Way, key: Key, chunk: SentChunk, now: float, of: str = "") -> Result | asyncio.Future[Result]:
        """Return what becomes of a report, or what will say so when it is stored. Raise Problem as `take` does."""
        if of and chunk.account.id != of:
            self.note(way, "unknown", now)
            raise Problem(NOT_OURS)
        try:
            result = self._judge_at_once(way, key, chunk, now)
            if result is None:
                return self._put(way, key, chunk, now)
        except Problem as problem:
            self.note(way, _name_problem(problem), now, chunk.account.id)
            raise
        self.note(way, result, now, chunk.account.id)
        return result

    def _judge_at_once(self, way: Way, key: Key, chunk: SentChunk, now: float) -> Result | None:
        """Return what becomes of a report that is not stored; None for one that is."""
        if key.position >= len(chunk.users):
            raise Problem(NOT_OURS)
        require_younger(chunk.ended_at, self._days, now)
        if key in self._stored:
            self._stored.move_to_end(key)
            return "repeated"
        if chunk.is_unsent(key.position):
            return "unsent"
        if not chunk.users[key.position]:  # who got it was deleted
            return "off"
        if way in BY_MAIL and not (chunk.tracking.opens if way == "pixel" else chunk.tracking.clicks):
            return "off"
        return None

    async def _take_old(self, way: Way, key: Key, now: float, of: str) -> Result:
        """Take a report about a message of which only facts know whom it went to."""
        if self._old_waiting >= OLD_WAITING:
            raise Problem(TOO_MANY, code=429, status=429, retry_after=1)
        self._old_waiting += 1
        try:
            async with self._old:
                sent = await find_cleaned_message(self._ledger, self._facts, key.chunk_id, key.position)
                if of and sent.account.id != of:
                    raise Problem(NOT_OURS)
                sent.require_younger(self._days, now)
                if way in BY_MAIL and await self._find_refusing(sent.account.id, [sent.user]):
                    return "off"
                new = await record_sent(self._ledger, self._facts, sent, key.kind, now)
        finally:
            self._old_waiting -= 1
        return _name(key, new=new)

    def _put(self, way: Way, key: Key, chunk: SentChunk, now: float) -> asyncio.Future[Result]:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if (same := self._under_way.get(key)) is not None:
            same.repeats.append((way, done))
            return done
        owner = chunk.account.id
        if self._held[owner] >= PLACES // SHARE or len(self._under_way) >= PLACES:
            raise Problem(TOO_MANY, code=429, status=429, retry_after=1)
        self._held[owner] += 1
        waiting = self._under_way[key] = _Gathered(way, Heard(key, owner, now), chunk, done)
        self._waiting.setdefault(owner, deque()).append(waiting)
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_waiting())
        return done

    async def _store_waiting(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                block = self._pick_block()
                self._last_size = len(block)
                try:
                    first = await self._keep_first(block)
                except Exception as error:
                    self._fail(block, error)
                    continue
                task = asyncio.create_task(self._insert(block, first))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._storing = None

    async def _gather(self) -> None:
        """While many come, begin a block not sooner than REST inserts after the last one."""
        now = asyncio.get_running_loop().time()
        until = self._stored_at + min(REST * self._insert_seconds, LONGEST_REST)
        if self._last_size >= MANY and now < until:
            await asyncio.sleep(until - now)
        self._stored_at = asyncio.get_running_loop().time()

    def _pick_block(self) -> list[_Gathered]:
        """Return what is stored next: of every account that waits an equal part, as far as it goes."""
        block: list[_Gathered] = []
        part = max(1, BLOCK // len(self._waiting))
        for owner in list(self._waiting):
            if len(block) >= BLOCK:
                break
            queue = self._waiting.pop(owner)
            block += [queue.popleft() for _ in range(min(part, len(queue)))]
            if queue:
                self._waiting[owner] = queue  # to the end: the others come first
        return block

    async def _keep_first(self, block: Sequence[_Gathered]) -> dict[Key, First]:
        """Return the first report of each of a block, without those about people who do not want to be counted."""
        mailed: dict[str, set[int]] = {}
        for one in block:
            if one.chunk.channel == "email":
                mailed.setdefault(one.heard.account_id, set()).add(one.chunk.users[one.heard.key.position])
        refusing = {owner: await self._find_refusing(owner, sorted(users)) for owner, users in mailed.items()}
        kept = [
            one.heard
            for one in block
            if one.chunk.channel != "email"
            or one.chunk.users[one.heard.key.position] not in refusing[one.heard.account_id]
        ]
        return await self._ledger.write(lambda connection: keep_first(connection, kept)) if kept else {}

    async def _find_refusing(self, account_id: str, users: Sequence[int]) -> set[int]:
        return await self._ledger.read(lambda connection: find_refusing(connection, account_id, users))

    async def _insert(self, block: Sequence[_Gathered], first: dict[Key, First]) -> None:
        """Store the events of a block, the old ones again: a crash may have lost their rows."""
        rows = [
            one.chunk.make_row(one.heard.key.position, EVENTS[one.heard.key.kind], first[one.heard.key].at)
            for one in block
            if one.heard.key in first
        ]
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._facts.insert("event", rows)
        except Exception as error:
            self._fail(block, error)
            return
        self._insert_seconds = loop.time() - began
        for start in range(0, len(block), ANSWERED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            self._answer(block[start : start + ANSWERED_AT_ONCE], first)

    def _answer(self, block: Sequence[_Gathered], first: Mapping[Key, First]) -> None:
        """Tell what became of reports that are stored, and remember them."""
        counts = Counter[tuple[Way, Result]]()
        for one in block:
            key = one.heard.key
            if (found := first.get(key)) is None:
                self._finish(one, "off", counts)
                continue
            self._stored[key] = None
            self._finish(one, _name(key, new=found.new), counts)
        for (way, result), count in counts.items():
            _find_counter(way, result).inc(count)
        while len(self._stored) > REMEMBERED:
            self._stored.popitem(last=False)

    def _fail(self, block: Sequence[_Gathered], error: Exception) -> None:
        log.error("reports cannot be stored", count=len(block), reason=type(error).__name__)
        for one in block:
            self._leave(one)
            for done in (one.done, *(done for _, done in one.repeats)):
                if not done.done():
                    done.set_exception(error)
                    done.exception()  # somebody may wait no more

    def _finish(self, one: _Gathered, result: Result, counts: Counter[tuple[Way, Result]]) -> None:
        """Note what a report came to, what is counted in `counts`, and tell whoever still waits."""
        self._leave(one)
        if result in COUNTED:
            counts[one.way, result] += 1
        else:
            self.note(one.way, result, one.heard.at, one.heard.account_id)
        if not one.done.done():
            one.done.set_result(result)
        repeated: Result = "repeated" if result in COUNTED else result
        for way, done in one.repeats:
            self.note(way, repeated, one.heard.at, one.heard.account_id)
            if not done.done():
                done.set_result(repeated)

    def _leave(self, one: _Gathered) -> None:
        del self._under_way[one.heard.key]
        owner = one.heard.account_id
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]


def _end(done: asyncio.Future[Any], _: object = None) -> None:
    """Tell whoever still waits that there is nothing more to wait for."""
    if not done.done():
        done.set_result(None)


def _name_problem(problem: Problem) -> Result:
    return _RESULTS.get(problem.status, "unknown")


def _name(key: Key, *, new: bool) -> Result:
    if not new:
        return "repeated"
    return "machine" if key.kind in MACHINE else "counted"


@functools.cache
def _find_counter(way: Way, result: Result) -> prometheus_client.Counter:
    return metrics.REPORTS.labels(way=way, result=result)
