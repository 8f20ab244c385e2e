"""An HTTP/1.1 server connection, one request at a time: WNS, webhooks, the token endpoints and the control API."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus

import h11

from tocsin.sandbox.faults import Fault, Kind
from tocsin.sandbox.http import BODY_KEPT, End, Head, RequestHandler, VendorReply, VendorRequest
from tocsin.sandbox.listener import Listener


class Http1(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive until the client closes it or breaks the protocol."""

    def __init__(self, listener: Listener, handler: RequestHandler) -> None:
        self._listener = listener
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=BODY_KEPT)
        self._head: Head | None = None
        self._fault: Fault | None = None
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self._transport = self._listener.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel a delayed answer and forget the connection."""
        if self._timer:
            self._timer.cancel()
        self._listener.remove(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Feed bytes to h11 and answer the requests they complete."""
        self._h11.receive_data(data)
        self._advance()

    def _advance(self) -> None:
        while self._transport and not self._transport.is_closing():
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._handler.note_break(f"this is not HTTP/1.1, which alone is spoken here: {error}")
                self._send(VendorReply(error.error_status_hint), closing=True)
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                if len(self._body) < BODY_KEPT:
                    self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._complete()
            elif isinstance(event, h11.ConnectionClosed):
                self._transport.close()
            else:  # NEED_DATA or PAUSED
                return

    def _begin(self, event: h11.Request) -> None:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        self._head = Head(event.method.decode("ascii"), event.target.decode("latin-1"), headers)
        self._body.clear()
        self._fault = self._handler.draw_fault(self._head)
        if self._fault and self._fault.kind in (Kind.GOAWAY, Kind.REFUSE) and self._transport:
            self._transport.abort()

    def _complete(self) -> None:
        assert self._head is not None
        reply = self._handler.reply(VendorRequest(self._head, bytes(self._body), self._fault))
        if self._transport is None:
            return
        if reply.end is End.CUT:
            self._transport.abort()
        elif reply.end in (End.HANG, End.VANISH):
            self._transport.pause_reading()
        elif reply.end is End.HALF:
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            self._transport.pause_reading()
        elif reply.seconds:
            self._transport.pause_reading()
            self._timer = asyncio.get_running_loop().call_later(reply.seconds, self._send_delayed, reply)
        else:
            self._send(reply)

    def _send_delayed(self, reply: VendorReply) -> None:
        self._timer = None
        if self._transport:
            self._transport.resume_reading()
            self._send(reply)
            self._advance()

    def _send(self, reply: VendorReply, *, closing: bool = False) -> None:
        """Write an answer and start the next cycle, or close when there can be no further request."""
        if self._transport is None:
            return
        headers = [*reply.headers, ("content-length", str(len(reply.body)))]
        if closing:
            headers.append(("connection", "close"))
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status))
            parts = [self._h11.send(response), self._h11.send(h11.Data(reply.body)), self._h11.send(h11.EndOfMessage())]
            self._transport.write(b"".join(part for part in parts if part))
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self._transport.close()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
