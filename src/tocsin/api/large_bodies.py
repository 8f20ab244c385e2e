"""Large bodies: while several accounts call, those of one are worked on one after another, with rests between them.

Decoding, checking and storing one takes the interpreter for milliseconds at a time. With four of them under way,
whoever else needs it waits for all four, at every step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial

from tocsin.api.held import Held
from tocsin.errors import Problem

LARGE = 8 * 1024  # bytes; smaller ones are worked on in less than a millisecond
SHARED_SECONDS = 2.0  # for so long after a call of one account, others take turns
REST = 1.0  # times what one took, before the next
REST_SECONDS = 0.2  # at most
WAIT_SECONDS = 10.0
CLOCK_SECONDS = 0.001  # the loop may call so much earlier
WAITING = 64  # bodies of one account and kind


class LargeBodies:
    """Whose large bodies are worked on, and who calls at all."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._called: dict[str, float] = {}  # when the two accounts did that called last
        self._lines: dict[tuple[str, str], _Line] = {}  # of accounts that ever sent a large one

    def note(self, account_id: str) -> None:
        """Note that an account calls."""
        self._called.pop(account_id, None)
        self._called[account_id] = asyncio.get_running_loop().time()
        if len(self._called) > 2:
            del self._called[next(iter(self._called))]

    async def enter(self, account_id: str, size: int, held: Held, kind: str = "") -> LargeBodyTurn:
        """Return when a body of so many bytes may be worked on, which it is until its turn or `held` is ended. kind: of
        bodies that have a line of their own. Raise Problem 429 when too many wait or its turn does not come in time."""
        if size <= LARGE:
            return _NONE
        line = self._lines.setdefault((account_id, kind), _Line(partial(self._is_shared, account_id)))
        line.call()  # when nobody else calls any more, those that wait still come first
        if line.is_taken():
            if line.waiting >= WAITING:
                raise _refuse()
            try:
                async with asyncio.timeout(self._wait_seconds):
                    await line.wait()
            except TimeoutError:
                raise _refuse() from None
        else:
            line.begin()
        turn = LargeBodyTurn(partial(line.leave, asyncio.get_running_loop().time()))
        held.callback(turn.end)
        return turn

    def _is_shared(self, account_id: str) -> bool:
        since = asyncio.get_running_loop().time() - SHARED_SECONDS
        return any(at > since for one, at in self._called.items() if one != account_id)


def _refuse() -> Problem:
    return Problem("Too much is sent at once; try again", code=429, status=429, retry_after=1)


class LargeBodyTurn:
    """The turn of one body."""

    def __init__(self, leave: Callable[[bool], None] | None) -> None:
        self._leave = leave

    def end(self, *, rest: bool = True) -> None:
        """Let the next one begin, after a rest or at once. Only the first call counts."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave(rest)


_NONE = LargeBodyTurn(None)  # of a body that is not large


class _Line:
    """The large bodies of one account, those that are worked on and those that wait. is_shared: whether others call."""

    def __init__(self, is_shared: Callable[[], bool]) -> None:
        self._is_shared = is_shared
        self._busy = 0
        self._rests_until = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def is_taken(self) -> bool:
        """Return whether a new one has to wait. While nobody else calls it does only behind those that wait still."""
        if self._queue or not self._is_shared():
            return bool(self._queue)
        return self._busy > 0 or asyncio.get_running_loop().time() < self._rests_until

    def begin(self) -> None:
        self._busy += 1

    async def wait(self) -> None:
        """Return when the next one is begun."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        self._queue.append(mine)
        loop.call_later(SHARED_SECONDS, self.call)  # others may be silent by then, and nobody here done
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                with contextlib.suppress(ValueError):  # `call` has passed over it
                    self._queue.remove(mine)
            else:  # its turn had come just then
                self._end(0.0)
            raise

    def leave(self, since: float, rest: bool) -> None:
        """Note that one is done that began at `since`, and begin the next after a rest."""
        took = asyncio.get_running_loop().time() - since
        self._end(min(REST * took, REST_SECONDS) if rest and self._is_shared() else 0.0)

    def _end(self, rest: float) -> None:
        self._busy -= 1
        loop = asyncio.get_running_loop()
        self._rests_until = max(self._rests_until, loop.time() + rest)
        loop.call_at(self._rests_until, self.call)

    def call(self) -> None:
        """Begin those whose turn it is: all, while nobody else calls; else the first, when none is worked on and there
        has been a rest."""
        alone = not self._is_shared()
        rests = asyncio.get_running_loop().time() < self._rests_until - CLOCK_SECONDS
        while self._queue and (alone or not (self._busy or rests)):
            mine = self._queue.popleft()
            if not mine.done():
                self.begin()
                mine.set_result(None)
