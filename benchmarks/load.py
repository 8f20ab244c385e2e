"""HTTP callers over loopback, one request after the other on each connection; and a bare server to compare with."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec


class Load(msgspec.Struct, frozen=True):
    """requests: answered 200. seconds: from the first to the last. latencies: seconds of each, sorted."""

    requests: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        """Return a percentile of the latencies in milliseconds; `share` is from 0 to 1."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))] * 1000


async def press(
    port: int,
    path: str,
    headers: dict[str, str],
    body: bytes,
    *,
    connections: int,
    seconds: float,
    pace: float | None = None,
    until_broken: bool = False,
) -> Load:
    """POST the same body for so many seconds, at least once a connection.

    pace: requests a second in all, and latencies count from the moment a request was due; None: as many as are
        answered. until_broken: return what was answered when the server closes the connections.
    Raises RuntimeError at an answer that is not 200.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
    latencies: list[float] = []
    started = time.monotonic()
    deadline = started + seconds
    turns = itertools.count()

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                then = time.monotonic()
                if pace is not None:
                    then = started + next(turns) / pace
                    await asyncio.sleep(max(0.0, then - time.monotonic()))
                await _post(reader, writer, head + body)
                latencies.append(time.monotonic() - then)
                if time.monotonic() >= deadline:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            if not until_broken:
                raise
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(call())
    return Load(len(latencies), time.monotonic() - started, sorted(latencies))


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode()[:300])
    length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)


async def bare_app(
    _scope: object, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[Any]]
) -> None:
    """Read the body and answer 200."""
    await read_whole(receive)
    await answer_ok(send)


async def read_whole(receive: Callable[[], Awaitable[Any]]) -> bytes:
    """Return the body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def answer_ok(send: Callable[[Any], Awaitable[Any]]) -> None:
    """Answer 200 with an empty object."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def serve_bare(port: int, app: Callable[..., Awaitable[None]]) -> None:
    """Serve an ASGI app on the server that Tocsin uses; print «ready» once it listens."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def main() -> None:
        server = Server(app, port=port, interface=Interfaces.ASGINL, log_enabled=False, websockets=False)
        serving = asyncio.ensure_future(server.serve())
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            break
        print("ready", flush=True)
        await serving

    asyncio.run(main())


if __name__ == "__main__":
    serve_bare(int(sys.argv[1]), bare_app)
