"""Numbered requests of one recipient each, every one sent when it is due whether or not those before it are answered.

It runs in a process of its own and says how late it was itself. Latencies count from the moment a request was due, so
that a server which makes its callers wait is not spared the requests they would have sent meanwhile.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
NUMBER, PERSON = b"@NUMBER@", b"@PERSON@"  # in a body
PATIENCE = 10.0  # seconds after the last request was due: what is not sent or answered then never is
START = 0.05  # seconds until the first request is due: the connections are open by then
READ_BYTES = 65536


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. body: with NUMBER and PERSON in it; persons go from 1 to `people` in turn. rate: requests a second;
    0: the next as soon as one is answered. count: how many. seconds: after which no more are sent. first: their first
    number. connections: kept open; a request that finds none free waits."""

    port: int
    path: str
    headers: dict[str, str]
    body: str
    people: int
    rate: float
    count: int
    seconds: float
    connections: int = 64
    first: int = 0


class Paced(msgspec.Struct):
    """What came of each request, in the order of the numbers, in monotonic seconds; 0.0 for what did not happen.

    status: of the answer, 0 for none. cpu: seconds of the generator's process.
    """

    first: int
    due: list[float]
    sent: list[float]
    answered: list[float]
    status: list[int]
    cpu: float = 0.0

    @property
    def accepted(self) -> list[int]:
        """The numbers of the requests answered 200."""
        return [self.first + index for index, status in enumerate(self.status) if status == 200]


def run_pacer(order: Order) -> Paced:
    """Send the requests from another process and wait for it."""
    command = [sys.executable, "-m", "benchmarks.pacer"]
    done = subprocess.run(  # noqa: S603 - our own module
        command, input=msgspec.json.encode(order), stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    return msgspec.json.decode(done.stdout, type=Paced)


class Pacer:
    """The requests of one order, and the connections they go over."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._selector = selectors.DefaultSelector()
        self._idle: deque[socket.socket] = deque()
        self._busy: dict[socket.socket, int] = {}  # the request each carries
        self._read: dict[socket.socket, bytes] = {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in order.headers.items())
        self._head = f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Content-Length: ".encode()
        self._body = order.body.encode()
        zeros = [0.0] * order.count
        self.paced = Paced(order.first, zeros, zeros.copy(), zeros.copy(), [0] * order.count)
        self._next = 0
        for _ in range(order.connections):
            self._connect()

    def run(self) -> Paced:
        """Send everything, wait for the answers, and return what came of it."""
        order, start = self._order, time.monotonic() + START
        if order.rate:
            self.paced.due = [start + index / order.rate for index in range(order.count)]
        end = start + order.seconds
        while self._next < order.count or self._busy:
            now = time.monotonic()
            if now > end + PATIENCE or (not self._busy and now > end and not order.rate):
                break
            self._send_due(now, end)
            self._read_answers(self._next_due() - time.monotonic())
        self.paced.cpu = time.process_time()
        self._cut()
        return self.paced

    def _next_due(self) -> float:
        waits = self._idle and self._next < self._order.count and self._order.rate
        return self.paced.due[self._next] if waits else time.monotonic() + 0.1

    def _send_due(self, now: float, end: float) -> None:
        paced, order = self.paced, self._order
        while self._idle and self._next < order.count:
            if order.rate and paced.due[self._next] > now:
                return
            if not order.rate:
                if now > end:
                    return
                paced.due[self._next] = now
            self._send(self._next)
            self._next += 1

    def _send(self, index: int) -> None:
        sock = self._idle.popleft()
        self._busy[sock] = index
        request = self._write(index)
        self.paced.sent[index] = time.monotonic()
        sock.send(request)

    def _write(self, index: int) -> bytes:
        number = self._order.first + index
        body = self._body.replace(NUMBER, b"%d" % number).replace(PERSON, b"%d" % (number % self._order.people + 1))
        return self._head + b"%d\r\n\r\n" % len(body) + body

    def _read_answers(self, wait: float) -> None:
        for key, _ in self._selector.select(max(0.0, wait)):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                data = sock.recv(READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._replace(sock)
                continue
            data = self._read.pop(sock, b"") + data
            head = data.find(b"\r\n\r\n")
            if head < 0 or len(data) < head + 4 + _read_length(data[:head]):
                self._read[sock] = data
                continue
            index = self._busy.pop(sock)
            self.paced.answered[index] = time.monotonic()
            self.paced.status[index] = int(data[9:12])
            self._idle.append(sock)

    def _connect(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._order.port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ)
        self._idle.append(sock)

    def _replace(self, sock: socket.socket) -> None:
        """Open a connection in place of one that the server closed; what it carried stays without an answer."""
        self._selector.unregister(sock)
        self._busy.pop(sock, None)
        self._read.pop(sock, None)
        if sock in self._idle:
            self._idle.remove(sock)
        sock.close()
        self._connect()

    def _cut(self) -> None:
        """Leave out the requests that a closed loop did not come to."""
        if not self._order.rate:
            paced = self.paced
            for column in (paced.due, paced.sent, paced.answered, paced.status):
                del column[self._next :]


def _read_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


if __name__ == "__main__":
    made = Pacer(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)).run()
    sys.stdout.buffer.write(msgspec.json.encode(made))
