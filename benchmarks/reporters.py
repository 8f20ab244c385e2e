"""Prepared requests, each sent once: in turn as they are answered, or each when it is due. A process of its own."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.pacer import ROOT, Order, Paced, Pacer

CONNECTIONS = 1500  # devices and mail programs are many, and each waits for its own answer


class Reporter(Pacer):
    """Sends requests as they are."""

    def __init__(self, order: Order, requests: list[bytes]) -> None:
        super().__init__(order)
        self._requests = requests

    def _write(self, index: int) -> bytes:
        return self._requests[index]


class Errand(msgspec.Struct, frozen=True):
    """order: how many, how quick and for how long; its path and body count for nothing."""

    order: Order
    requests: list[bytes]


def run_reporter(
    port: int, requests: list[bytes], seconds: float, rate: float = 0.0, connections: int = CONNECTIONS
) -> Paced:
    """Send the requests from another process, each at most once, for so many seconds, and wait for it. rate: a second;
    0: the next as soon as one is answered."""
    count = min(len(requests), int(rate * seconds)) if rate else len(requests)
    order = Order(
        port=port,
        path="",
        headers={},
        body="",
        people=1,
        rate=rate,
        count=count,
        seconds=seconds,
        connections=connections,
    )
    command = [sys.executable, "-m", "benchmarks.reporters"]
    errand = msgspec.msgpack.encode(Errand(order, requests))
    done = subprocess.run(command, input=errand, stdout=subprocess.PIPE, cwd=ROOT, check=True)  # noqa: S603 - our own
    return msgspec.json.decode(done.stdout, type=Paced)


if __name__ == "__main__":
    given = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Errand)
    sys.stdout.buffer.write(msgspec.json.encode(Reporter(given.order, given.requests).run()))
