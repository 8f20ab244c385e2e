"""The loop of a sink that answers every message after a time: sockets, TLS, answers that are due, a control on stdin.

One thread, and as little as possible a message: the sink shares the machine with what is measured. A sink whose answers
take their time looks at its sockets every 2 ms, and writes what is due by then at once.
"""

from __future__ import annotations

import heapq
import os
import random
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.stamps import FLUSH_SECONDS, StampFile

SEED = 13  # of the numbers that decide which requests are answered late
TURN_SECONDS = 0.002
READ_BYTES = 256 * 1024
BACKLOG = 512


class Pace(msgspec.Struct, frozen=True):
    """How a sink answers. latency: seconds. tails: (share of the messages, their seconds); which messages these are is
    drawn from a fixed seed in the order of arrival, so it is the same in every run."""

    latency: float = 0.0
    tails: tuple[tuple[float, float], ...] = ()


class Tally(msgspec.Struct):
    """What a sink says of itself. late: messages that a tail caught. cpu: seconds of its process."""

    messages: int = 0
    late: int = 0
    cpu: float = 0.0


class Peer(Protocol):
    """What a protocol does with the bytes of one connection."""

    def feed(self, data: bytes) -> None:
        """Read what came; write to `wire.out`, and hand each whole message to `sink.take`."""


class Wire:
    """One connection. out: bytes to be written at the end of this turn of the loop."""

    __slots__ = ("out", "peer", "shaking", "sock", "watching")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.out = bytearray()
        self.peer: Peer | None = None
        self.shaking = isinstance(sock, ssl.SSLSocket)
        self.watching = selectors.EVENT_READ


Answer = tuple[float, int, Wire, bytes, int | None, float]  # due, turn, to whom, what, its number, when it arrived


class AnsweringSink:
    """Connections of one port, and the answers that are due to them."""

    def __init__(
        self,
        port: int,
        pace: Pace,
        stamps: Path,
        connect: Callable[[AnsweringSink, Wire], Peer],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.tally = Tally()
        self.now = 0.0  # monotonic seconds, of this turn of the loop
        self._pace, self._tails_on = pace, False
        self._draw = random.Random(SEED).random  # noqa: S311 - which of them are slow
        self._stamps, self._connect, self._context = StampFile(stamps), connect, context
        self._due: list[Answer] = []
        self._touched: dict[Wire, None] = {}
        self._answered: list[tuple[int, float]] = []
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def take(self, wire: Wire, answer: bytes, number: int | None) -> None:
        """Take one whole message: its answer is written when its time has come."""
        tally, now = self.tally, self.now
        tally.messages += 1
        wait = self.choose_wait() if self._tails_on else self._pace.latency
        if wait:
            heapq.heappush(self._due, (now + wait, tally.messages, wire, answer, number, now))
        else:
            self._write(wire, answer, number, now)

    def choose_wait(self) -> float:
        """Return the seconds that the next message waits while the tails are on."""
        drawn = self._draw()
        for share, seconds in self._pace.tails:
            if drawn < share:
                self.tally.late += 1
                return seconds
            drawn -= share
        return self._pace.latency

    def _write(self, wire: Wire, answer: bytes, number: int | None, arrived: float) -> None:
        wire.out += answer
        self._touched[wire] = None
        if number is not None:
            self._answered.append((number, arrived))

    def touch(self, wire: Wire) -> None:
        """Have what a protocol put into `wire.out` by itself written in this turn."""
        self._touched[wire] = None

    def serve(self) -> None:
        """Serve until stdin ends. Prints «ready», and the tally for each line of stdin: «tails on», «tails off»,
        «count»."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "control")
        print("ready", flush=True)
        while True:
            wait = min(FLUSH_SECONDS, max(0.0, self._due[0][0] - time.monotonic())) if self._due else FLUSH_SECONDS
            if self._pace.latency:
                time.sleep(max(0.0, self.now + TURN_SECONDS - time.monotonic()))
                wait = max(0.0, wait - TURN_SECONDS)
            events = self._selector.select(wait)
            self.now = time.monotonic()
            for key, mask in events:
                if key.data is None:
                    self._accept()
                elif key.data == "control":
                    if not self._obey():
                        return
                else:
                    self._serve_wire(key.data, mask)
            self.finish_turn()

    def finish_turn(self) -> None:
        """Write what is due, and note when."""
        due, now = self._due, self.now
        while due and due[0][0] <= now:
            _, _, wire, answer, number, arrived = heapq.heappop(due)
            self._write(wire, answer, number, arrived)
        for wire in self._touched:
            self._flush(wire)
        self._touched.clear()
        if self._answered:
            now = time.monotonic()
            for number, arrived in self._answered:
                self._stamps.add(number, arrived, now)
            self._answered.clear()
        self._stamps.tick(now)

    def close(self) -> None:
        """Close the port and the file of stamps."""
        self._selector.close()
        self._listener.close()
        self._stamps.close()

    def _obey(self) -> bool:
        line = os.read(sys.stdin.fileno(), 1000).decode().strip()
        if line.startswith("tails"):
            self._tails_on = line.endswith("on")
        self.tally.cpu = time.process_time()
        if line:
            print(msgspec.json.encode(self.tally).decode(), flush=True)
        return bool(line)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        wire = Wire(sock)
        wire.peer = self._connect(self, wire)
        self._selector.register(sock, selectors.EVENT_READ, wire)

    def _serve_wire(self, wire: Wire, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self.touch(wire)
        if not mask & selectors.EVENT_READ:
            return
        assert wire.peer is not None
        try:
            if isinstance(wire.sock, ssl.SSLSocket) and wire.shaking:
                wire.sock.do_handshake()
                wire.shaking = False
            while data := wire.sock.recv(READ_BYTES):  # one TLS record at a time, and a client may put little into each
                wire.peer.feed(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        except OSError:
            pass
        self._drop(wire)

    def _flush(self, wire: Wire) -> None:
        if wire.sock.fileno() < 0 or wire.shaking:
            return
        try:
            while wire.out:
                del wire.out[: wire.sock.send(wire.out)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError:
            self._drop(wire)
            return
        watching = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.out else 0)
        if watching != wire.watching:
            wire.watching = watching
            self._selector.modify(wire.sock, watching, wire)

    def _drop(self, wire: Wire) -> None:
        if wire.sock.fileno() >= 0:
            self._selector.unregister(wire.sock)
            wire.sock.close()


def read_arguments(arguments: Sequence[str]) -> tuple[int, Pace, Path]:
    """Return the port, the pace and the folder that a sink's process was started with."""
    port, pace, folder = arguments
    return int(port), msgspec.json.decode(pace, type=Pace), Path(folder)
