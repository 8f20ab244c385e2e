"""What a trace tells of a `/1/send` request in its worker: waited, claimed, sent, settled."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tocsin.delivery import traces
from tocsin.delivery.lane import Outgoing
from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt
from tocsin.queue import Chunk


class _Traced(msgspec.Struct):
    traceparent: str = ""


_TRACED = msgspec.json.Decoder(_Traced)


class ChunkTrace:
    """The spans of one chunk, below that of its request. All times are epoch seconds."""

    def __init__(self, made: traces.Traces, parent: str, channel: str) -> None:
        self._traces, self._parent, self._channel = made, parent, channel
        self._looked_at = 0.0
        self._answered_at = 0.0  # of the first answer that is not settled
        self._sent: dict[int, tuple[str, float]] = {}  # messages under way: their claim, and when they went

    def note_look(self, chunk: Chunk, now: float) -> None:
        """Record how long the request waited for a worker; from here on it is claimed."""
        self._looked_at = now
        self._traces.record("wait", self._parent, chunk.created_at, now, {"tocsin.chunk": chunk.id})

    def note_claim(self, messages: Sequence[Outgoing], now: float) -> None:
        """Record the claim of a window, which is committed. Its messages are handed over now."""
        values = {"tocsin.messages": len(messages)}
        claim = self._traces.record("claim", self._parent, self._looked_at, now, values)
        self._sent |= {id(one): (claim, now) for one in messages}

    def note_answer(self, message: Outgoing, receipt: Receipt | None, now: float) -> None:
        """Record one message, from its hand-over to a sender to the vendor's answer."""
        claim, began = self._sent.pop(id(message), (self._parent, now))
        outcome = Outcome.ACCEPTED if receipt is None else receipt.outcome
        values = {
            "tocsin.channel": self._channel,
            "tocsin.provider": message.lane.credential.name,
            "tocsin.platform": message.platform,
            "tocsin.outcome": outcome.value,
        }
        self._traces.record("send", claim, began, now, values)
        self._answered_at = self._answered_at or now

    def note_settlement(self, now: float) -> None:
        """Record that the answers so far are committed."""
        if self._answered_at:
            self._traces.record("settle", self._parent, self._answered_at, now, {})
        self._answered_at, self._looked_at = 0.0, now


def follow(chunk: Chunk) -> ChunkTrace | None:
    """Return the trace of a chunk; None when its request has none, or nothing is traced."""
    if traces.active is None or chunk.request is None:
        return None
    parent = _TRACED.decode(chunk.request).traceparent
    return ChunkTrace(traces.active, parent, chunk.channel) if parent else None
