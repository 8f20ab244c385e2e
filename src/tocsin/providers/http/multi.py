"""libcurl's multi interface on an asyncio loop: one set of connections, many transfers in flight on them.

pycurl's own `AsyncCurlMulti` passes the same tests, but its callback for each future costs 7 to 12 % more CPU a
notification in `tocsin bench dispatch`.
"""

from __future__ import annotations

import asyncio
import time

import pycurl

from tocsin.providers.http.transfer import HttpPost, Transfer

CONNECTIONS_KEPT = 256  # connections of a pool whose last answer is remembered
# Transfers that begin in one iteration of the loop. libcurl reads the bodies of all that it finds, which notes them as
# handed over, and then writes them: those that a kill catches in between nobody has seen.
BURST = 16


class CurlMulti:
    """The connections of one generation of a pool; once retired, closed when the last answer on them is read. Belongs
    to the event loop that it is first used on."""

    def __init__(self, connections: int, streams: int) -> None:
        self._multi = multi = pycurl.CurlMulti()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: dict[pycurl.Curl, asyncio.Future[pycurl.error | None]] = {}
        self._begun = 0  # transfers since libcurl was last called
        self._later: dict[pycurl.Curl, None] = {}  # transfers that begin when it was called again
        self._watched: dict[int, int] = {}  # for each socket, the POLL_ flags that libcurl waits for
        self._timer: asyncio.Handle | None = None
        self._soon = False  # the timer is set for the next iteration of the loop
        self._retired = False
        self._heard: dict[int, float] = {}  # when an answer last came on a connection, by the monotonic clock
        multi.setopt(pycurl.M_PIPELINING, 2)  # multiplex; HTTP/1.1 pipelining no longer exists in libcurl
        multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, connections)
        multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, streams)
        multi.setopt(pycurl.M_MAXCONNECTS, max(connections * 2, 8))
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    @property
    def busy(self) -> bool:
        """Whether transfers are in progress."""
        return bool(self._under_way)

    @property
    def retired(self) -> bool:
        """Whether no new transfers may start."""
        return self._retired

    def start(self, transfer: Transfer) -> asyncio.Future[pycurl.error | None]:
        """Start a transfer; return the future of libcurl's error, None for success."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self._under_way[transfer.curl] = end = loop.create_future()
        self._later[transfer.curl] = None
        self._begin_some()
        return end

    def _begin_some(self) -> None:
        while self._later and self._begun < BURST:
            curl = next(iter(self._later))
            del self._later[curl]
            self._begun += 1
            self._multi.add_handle(curl)

    def give_up(self, transfer: Transfer) -> None:
        """Stop a transfer whose caller was cancelled."""
        if self._under_way.pop(transfer.curl, None) is not None:
            self._remove(transfer.curl)
        self._close_if_left()

    def _remove(self, curl: pycurl.Curl) -> None:
        if curl in self._later:
            del self._later[curl]
        else:
            self._multi.remove_handle(curl)

    def hear(self, transfer: Transfer) -> None:
        """Note that an answer came on the connection of `transfer`."""
        connection = transfer.curl.getinfo(pycurl.CONN_ID)
        if connection not in self._heard and len(self._heard) >= CONNECTIONS_KEPT:
            del self._heard[next(iter(self._heard))]
        self._heard[connection] = time.monotonic()

    def is_dead(self, transfer: Transfer, error: pycurl.error, request: HttpPost) -> bool:
        """Return whether the connection of a failed transfer should not be used again: it broke, or `request` timed out
        and no answer came on this connection (whatever came on others) for half its timeout."""
        if error.args[0] != pycurl.E_OPERATION_TIMEDOUT:
            return True
        heard = self._heard.get(transfer.curl.getinfo(pycurl.CONN_ID), 0.0)
        return heard < time.monotonic() - request.timeout / 2

    def retire(self) -> None:
        """Start no new transfers, and close after the last answer."""
        self._retired = True
        self._close_if_left()

    def close(self, why: str) -> None:
        """Close every connection; a transfer in progress fails with E_ABORTED_BY_CALLBACK and `why`."""
        if self._multi.closed:
            return
        for curl in list(self._under_way):
            self._finish(curl, pycurl.error(pycurl.E_ABORTED_BY_CALLBACK, why))
        self._set_timer(-1)
        for fd in list(self._watched):
            self._forget(fd)
        self._multi.close()

    def _close_if_left(self) -> None:
        # Not at once: this may be called from within libcurl.
        if self._retired and not self._under_way and self._loop is not None:
            self._loop.call_soon(self._close_when_idle)
        elif self._retired and self._loop is None:
            self.close("never used")

    def _close_when_idle(self) -> None:
        if not self._under_way:
            self.close("retired")

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        assert self._loop is not None
        if what == pycurl.POLL_REMOVE:
            self._forget(fd)
            return
        before = self._watched.get(fd, 0)
        self._watched[fd] = what
        for flag, add, remove, action in (
            (pycurl.POLL_IN, self._loop.add_reader, self._loop.remove_reader, pycurl.CSELECT_IN),
            (pycurl.POLL_OUT, self._loop.add_writer, self._loop.remove_writer, pycurl.CSELECT_OUT),
        ):
            if what & flag and not before & flag:
                add(fd, self._drive, fd, action)
            elif before & flag and not what & flag:
                remove(fd)

    def _forget(self, fd: int) -> None:
        assert self._loop is not None
        before = self._watched.pop(fd, 0)
        if before & pycurl.POLL_IN:
            self._loop.remove_reader(fd)
        if before & pycurl.POLL_OUT:
            self._loop.remove_writer(fd)

    def _set_timer(self, milliseconds: int) -> None:
        if milliseconds == 0 and self._soon:
            return
        self._soon = milliseconds == 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds < 0 or self._loop is None:
            return
        if milliseconds == 0:  # libcurl must not be called from its own callback
            self._timer = self._loop.call_soon(self._tick)
        else:
            self._timer = self._loop.call_later(milliseconds / 1000, self._tick)

    def _tick(self) -> None:
        self._timer, self._soon = None, False
        self._drive(pycurl.SOCKET_TIMEOUT, 0)

    def _drive(self, fd: int, action: int) -> None:
        if self._multi.closed:
            return
        self._multi.socket_action(fd, action)
        self._begun = 0
        while True:
            left, fine, broken = self._multi.info_read()
            for curl in fine:
                self._finish(curl, None)
            for curl, code, sentence in broken:
                self._finish(curl, pycurl.error(code, sentence))
            if not left:
                break
        self._begin_some()

    def _finish(self, curl: pycurl.Curl, end: pycurl.error | None) -> None:
        self._remove(curl)
        waiting = self._under_way.pop(curl, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(end)
        if self._retired:
            self._close_if_left()
