"""What the transport swears about a request, held against servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tocsin.providers.http.transfer import ANSWER_BYTES
from tocsin.providers.transport import HttpPost, MailTransfer, Pool, PoolLimits, Server, Transport


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    """A transport that is closed afterwards."""
    async with Transport() as made:
        yield made


def make_request(url: str) -> HttpPost:
    """A small POST."""
    return HttpPost(url=url, headers=("content-type: text/plain",), body=b"x", timeout=5.0)


async def test_plain_http_is_only_for_this_machine(transport: Transport) -> None:
    """A URL without TLS leaves this machine under no circumstances."""
    answer = await transport.pool().request(make_request("http://192.0.2.1/"))
    assert answer.failure == "unsent"


async def listen(answers: list[bytes | None]) -> tuple[asyncio.Server, str, list[bytes]]:
    """An HTTP/1.1 server on this machine that gives these answers in order, None for hanging up without one."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            heard.append(await reader.readexactly(1))
            answer = answers.pop(0) if answers else None
            if answer is None:
                break
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", heard


YES = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"


async def test_a_long_answer_is_not_kept(transport: Transport) -> None:
    """What a server answers at length is dropped as it comes: our memory is not a stranger's to fill."""
    piece, pieces = b"x" * 65_536, 500

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * pieces))
        for _ in range(pieces):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        tracemalloc.start()
        answer = await transport.pool().request(make_request(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (answer.status, len(answer.body)) == (200, ANSWER_BYTES)
    assert most < len(piece) * pieces / 5


async def test_reused_connection_that_dies_is_not_tried_again(transport: Transport) -> None:
    """libcurl would send the POST a second time by itself here: one request leaves, and its end is unknown."""
    server, url, heard = await listen([YES, None, YES])
    pool = transport.pool()
    first = await pool.request(make_request(url))
    assert (first.status, first.headers["x-a"], first.body) == (200, "b", b"ok")
    second = await pool.request(make_request(url))
    assert second.failure == "unknown"
    assert len(heard) == 2
    assert (await pool.request(make_request(url))).status == 200
    server.close()


async def test_redirect_is_an_answer(transport: Transport) -> None:
    """A redirect is reported and not followed: it would carry our token elsewhere."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    server, url, heard = await listen([moved])
    answer = await transport.pool().request(make_request(url))
    server.close()
    assert (answer.status, len(heard)) == (302, 1)


async def test_answers_body_is_bounded(transport: Transport) -> None:
    """Sixty-four kilobytes of an answer are kept, however much comes."""
    server, url, _ = await listen([b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000])
    answer = await transport.pool().request(make_request(url))
    server.close()
    assert (answer.status, len(answer.body)) == (200, 65_536)


async def hold(pool: Pool, url: str) -> asyncio.Task[Any]:
    """A request under way."""
    task = asyncio.create_task(pool.request(make_request(url)))
    await asyncio.sleep(0)
    return task


async def test_closing_answers_what_is_under_way() -> None:
    """A pool closed under a request gives it a failure, and takes no more."""
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nx")
        reached.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    pool = Transport().pool()
    task = await hold(pool, url)
    await reached.wait()
    await pool.aclose()
    assert (await task).failure == "unknown"
    assert (await pool.request(make_request(url))).failure == "unsent"
    server.close()


async def test_cancelled_request_leaves_the_pool_usable(transport: Transport) -> None:
    """A caller that gives up takes its handle with it; the next request gets its own answer."""
    server, url, _ = await listen([YES, YES])
    pool = transport.pool(limits=PoolLimits(in_flight=1))
    task = await hold(pool, url)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.request(make_request(url))).status == 200
    server.close()


async def test_renewed_pool_uses_new_connections(transport: Transport) -> None:
    """After a renewal the old connection is left, at most once a second and once for each generation."""
    server, url, _ = await listen([YES, YES])
    pool = transport.pool()
    await pool.request(make_request(url))
    pool.renew(pool.generation)
    assert pool.generation == 1
    pool.renew(0)
    pool.renew(1)
    assert pool.generation == 1
    assert (await pool.request(make_request(url))).status == 200
    server.close()


def test_requests_do_not_show_what_they_carry() -> None:
    """A request or an envelope that lands in a log holds neither address nor credential."""
    request = HttpPost(url="https://h/3/device/secret", headers=("authorization: secret",), body=b"secret")
    envelope = MailTransfer(sender="a", recipient="secret", body=b"secret")
    server = Server(host="h", port=1, hello="h", username="u", password="secret")
    assert "secret" not in f"{request!r}{envelope!r}{server!r}"
