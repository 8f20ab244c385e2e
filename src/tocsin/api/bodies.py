"""Bodies of requests: read within a limit of bytes and of time, and kept within one budget for all routes.

What counts is what has come, not what was promised: a Content-Length takes nothing from anybody. An account may hold a
SHARE of the budget, and so may all those together who did not log in.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from tocsin.api.held import Held
from tocsin.errors import Problem
from tocsin.store.patience import Patience

SHARE = 4  # an account's part of the budget is one of so many
STRANGERS = ""  # the owner of what comes without a passcode
READ_ON = 8  # times the limit, then the connection is dropped in the middle
UNFOLD_BYTES = 64 * 1024  # of a compressed body at a time
GZIP = 16 + zlib.MAX_WBITS
ENCODINGS = {b"gzip": GZIP, b"x-gzip": GZIP, b"deflate": zlib.MAX_WBITS}
HELD = "tocsin.held"  # in an ASGI scope: what is given back when its request ends


class Bodies:
    """Reads bodies. budget: bytes of all that are held at one time. seconds: how long one may take to arrive."""

    def __init__(self, budget: int, seconds: float):
        self._budget = budget
        self._patience = Patience(seconds)
        self._held = Counter[str]()
        self._total = 0

    @property
    def held(self) -> int:
        """Bytes of all bodies that are held now."""
        return self._total

    async def read(self, request: Request, limit: int, owner: str = STRANGERS) -> bytes:
        """Return the body, unfolded when it is compressed, never with more than `limit` bytes of it in memory. It is
        counted until the request has ended.

        Raises Problem 413 (after reading on for a while: many callers look for an answer only when they have sent
        everything), 408, 415, and 429 while too many bodies are held.
        """
        unfold, length = _read_head(request)
        if length > limit * READ_ON:
            raise _too_large(limit)
        body = _Body(self, request.scope[HELD], owner, limit)
        task, late = asyncio.current_task(), list[bool]()
        assert task is not None
        number = self._patience.begin(functools.partial(_interrupt, task, late))
        try:
            await _receive(request, body, unfold)
        except asyncio.CancelledError:
            if not late:
                raise
            task.uncancel()
            sentence = f"The body did not arrive within {self._patience.seconds:g} seconds"
            raise Problem(sentence, code=408, status=408) from None
        finally:
            self._patience.end(number)
        return body.join()

    def take(self, owner: str, size: int) -> None:
        """Count bytes as held. Raises Problem 429 beyond the budget or the owner's share of it."""
        if self._total + size > self._budget or self._held[owner] + size > self._budget // SHARE:
            raise Problem("Too many bytes of requests are under way; try again", code=429, status=429, retry_after=1)
        self._held[owner] += size
        self._total += size

    def give_back(self, owner: str, size: int) -> None:
        """Count bytes as no longer held."""
        self._total -= size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]


class _Body:
    """The parts of one body, and what of the budget they take."""

    def __init__(self, bodies: Bodies, held: Held, owner: str, limit: int):
        self._bodies, self._owner, self.limit = bodies, owner, limit
        self._parts: list[bytes] = []
        self.size = 0
        self._taken = 0
        held.callback(self._give_back)

    def add(self, part: bytes) -> None:
        """Keep a part, unless the body has become too large to be kept."""
        self.size += len(part)
        if self.size <= self.limit:
            self._bodies.take(self._owner, len(part))
            self._taken += len(part)
            self._parts.append(part)

    def join(self) -> bytes:
        """Return the whole. Raises Problem 413 for one that was too large."""
        if self.size > self.limit:
            raise _too_large(self.limit)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _give_back(self) -> None:
        self._bodies.give_back(self._owner, self._taken)


async def _receive(request: Request, body: _Body, unfold: _Unfolding | None) -> None:
    received, more = 0, True
    while more and max(received, body.size) <= body.limit * READ_ON:
        # Not by `request.stream()`: asyncio registers every async generator, which costs more than the reading.
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem("The connection ended before the body did")
        part, more = message.get("body", b""), message.get("more_body", False)
        received += len(part)
        if unfold is None:
            body.add(part)
            continue
        for piece in unfold.feed(part):
            body.add(piece)
            if body.size > body.limit:
                raise _too_large(body.limit)
            await asyncio.sleep(0)  # 4 MiB take 10 ms: others are answered between the pieces
    if unfold is not None:
        unfold.close()


class _Unfolding:
    """Decompression in pieces of at most UNFOLD_BYTES, so that a small body cannot become a large one unseen."""

    def __init__(self, bits: int):
        self._stream = zlib.decompressobj(bits)

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Yield what a part unfolds to. Raises Problem 400 for what is not compressed as it was said to be."""
        while part:
            if self._stream.eof:
                raise Problem("The body goes on after its compressed part")
            try:
                piece = self._stream.decompress(part, UNFOLD_BYTES)
            except zlib.error as error:
                raise Problem(f"The body is not compressed as its Content-Encoding says: {error}") from None
            if piece:
                yield piece
            part = self._stream.unconsumed_tail or self._stream.unused_data

    def close(self) -> None:
        """Raise Problem 400 when the end is missing."""
        if not self._stream.eof:
            raise Problem("The compressed body ends in the middle")


def _interrupt(task: asyncio.Task[Any], late: list[bool]) -> None:
    """End the wait of a task, and leave a note that it was this that ended it."""
    late.append(task.cancel())


def _read_head(request: Request) -> tuple[_Unfolding | None, int]:
    """Return what unfolds a body, None for one that is not compressed; and the bytes that it has by its own word, 0
    when it does not say, or says nonsense. Raises Problem 415 for a compression that is not known."""
    encoding = length = b""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            length = length or value
        elif name == b"content-encoding":
            encoding = encoding or value.strip().lower()
    size = int(length) if length.isdigit() and len(length) < 16 else 0
    if encoding in (b"", b"identity"):
        return None, size
    if encoding not in ENCODINGS:
        raise Problem("Content-Encoding must be gzip or deflate", code=415, status=415)
    return _Unfolding(ENCODINGS[encoding]), size


def _too_large(limit: int) -> Problem:
    return Problem(f"The body is larger than {limit} bytes", code=413, status=413)
