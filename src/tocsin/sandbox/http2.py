"""An HTTP/2 server connection (RFC 9113) on jh2, with the frames that faults need and jh2 does not send by itself."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.errors import ErrorCodes
from jh2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from jh2.exceptions import ProtocolError
from jh2.settings import SettingCodes, Settings

from tocsin.sandbox.faults import Fault, Kind
from tocsin.sandbox.http import BODY_KEPT, End, Head, RequestHandler, VendorReply, VendorRequest
from tocsin.sandbox.listener import Listener

LINGER = 5.0
"""Seconds a connection stays open after GOAWAY: closing at once would reset it and lose answers in flight."""

SILENCE = 60.0
"""Seconds until a connection is dropped after HALF or VANISH."""

WINDOW = 4 * 1024 * 1024
"""Bytes the client may have in flight in all streams together."""

_SETTINGS, _GOAWAY = 0x4, 0x7
_UNLIMITED = 2**31 - 1


def _frame(kind: int, payload: bytes) -> bytes:
    """Return a frame of the connection (stream 0) without flags."""
    return len(payload).to_bytes(3, "big") + bytes((kind, 0, 0, 0, 0, 0)) + payload


class _Incoming:
    __slots__ = ("body", "fault", "head")

    def __init__(self, head: Head, fault: Fault | None) -> None:
        self.head = head
        self.fault = fault
        self.body = bytearray()


class Http2(asyncio.Protocol):
    """One HTTP/2 connection. Requests over the stream limit get REFUSED_STREAM, as RFC 9113 5.1.2 allows."""

    def __init__(self, listener: Listener, handler: RequestHandler) -> None:
        self._listener = listener
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, _Incoming] = {}
        self._unsent: dict[int, bytes] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._highest = 0
        self._announced = handler.streams
        self._going_away = False
        self._stopped = self._vanished = False
        config = H2Configuration(
            client_side=False,
            header_encoding=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = H2Connection(config=config)
        # jh2 ends the connection over one stream too many; here that stream gets REFUSED_STREAM instead.
        self._h2.local_settings = Settings(
            client=False,
            initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: _UNLIMITED, SettingCodes.MAX_HEADER_LIST_SIZE: 65536},
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the server's connection preface."""
        self._transport = self._listener.add(transport)
        self._h2.initiate_connection()
        self._h2.clear_outbound_data_buffer()
        self._h2.increment_flow_control_window(WINDOW)
        self._transport.write(self._settings())
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the delayed answers and forget the connection."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._open.clear()
        self._listener.remove(self._transport)
        self._transport = None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its answers."""
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again; see pause_writing."""
        if self._transport:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Feed frames to jh2 and answer the requests they complete."""
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._handler.note_break(f"this is not HTTP/2 as RFC 9113 has it: {str(error) or type(error).__name__}")
            self._flush()
            if self._transport:
                self._transport.close()
            return
        for event in events:
            if self._transport is None or self._transport.is_closing() or self._vanished:
                return
            self._handle_event(event)
        self._flush()

    def _handle_event(self, event: object) -> None:
        if isinstance(event, DataReceived):
            incoming = self._open.get(event.stream_id)
            if incoming and len(incoming.body) < BODY_KEPT:
                incoming.body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, RequestReceived):
            self._begin(event.stream_id, event.headers)
        elif isinstance(event, StreamEnded):
            self._complete(event.stream_id)
        elif isinstance(event, StreamReset):
            self._forget(event.stream_id)
        elif isinstance(event, WindowUpdated):
            for stream in tuple(self._unsent):
                self._send_body(stream)

    def _begin(self, stream: int, raw: list[tuple[bytes, bytes]]) -> None:
        if self._going_away:
            return
        if len(self._open) >= self._announced:
            self._reset(stream)
            return
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        pseudo = {name: value for name, value in pairs if name[0] == ":"}
        headers = tuple(pair for pair in pairs if pair[0][0] != ":")
        head = Head(pseudo.get(":method", ""), pseudo.get(":path", ""), headers, pseudo.get(":authority", ""))
        fault = self._handler.draw_fault(head)
        if fault and fault.kind is Kind.GOAWAY:
            self._go_away(fault)
            return
        self._highest = stream
        if fault and fault.kind is Kind.REFUSE:
            self._reset(stream)
            return
        self._open[stream] = _Incoming(head, fault)
        self._announce()

    def _reset(self, stream: int) -> None:
        with suppress(ProtocolError):  # the client may have reset the stream in later frames of the same read
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)

    def _go_away(self, fault: Fault) -> None:
        """Send GOAWAY with the last stream before this one; the earlier streams are still answered."""
        self._going_away = True
        payload = struct.pack(">II", self._highest, ErrorCodes.NO_ERROR) + self._handler.goaway_data(fault)
        self._flush()
        self._write(_frame(_GOAWAY, payload))
        if self._transport:
            self._timers[0] = self._loop.call_later(LINGER, self._transport.close)

    def _complete(self, stream: int) -> None:
        incoming = self._open.get(stream)
        if incoming is None:
            return
        reply = self._handler.reply(VendorRequest(incoming.head, bytes(incoming.body), incoming.fault))
        if reply.end is End.CUT:
            self._flush()
            if self._transport:
                self._transport.abort()
        elif reply.end in (End.HALF, End.VANISH):
            self._stop_sending(reply.end)
        elif reply.end is End.ANSWER and reply.seconds:
            self._timers[stream] = self._loop.call_later(reply.seconds, self._answer_delayed, stream, reply)
        elif reply.end is End.ANSWER:
            self._answer(stream, reply)

    def _answer_delayed(self, stream: int, reply: VendorReply) -> None:
        self._answer(stream, reply)
        self._flush()

    def _answer(self, stream: int, reply: VendorReply) -> None:
        headers = [(b":status", b"%d" % reply.status)]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        headers.append((b"content-length", b"%d" % len(reply.body)))
        try:
            self._h2.send_headers(stream, headers, end_stream=not reply.body)
        except ProtocolError:  # as in _reset
            self._forget(stream)
            return
        self._unsent[stream] = reply.body
        self._send_body(stream)
        self._announce()

    def _announce(self) -> None:
        """Send SETTINGS when the stream limit has changed."""
        if self._handler.streams != self._announced:
            self._announced = self._handler.streams
            self._flush()
            self._write(self._settings())

    def _stop_sending(self, end: End) -> None:
        """Send nothing more: HALF closes the sending side, VANISH also stops reading."""
        self._flush()
        self._stopped = True
        if self._transport is None:
            return
        if end is End.HALF:
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        else:
            self._vanished = True
            self._transport.pause_reading()
        self._timers[0] = self._loop.call_later(SILENCE, self._transport.abort)

    def _send_body(self, stream: int) -> None:
        """Send as much of an answer as the client's flow-control windows allow."""
        rest = self._unsent[stream]
        try:
            while rest:
                room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                if room <= 0:
                    break
                self._h2.send_data(stream, rest[:room], end_stream=len(rest) <= room)
                rest = rest[room:]
        except ProtocolError:  # as in _reset
            rest = b""
        self._unsent[stream] = rest
        if not rest:
            self._forget(stream)

    def _forget(self, stream: int) -> None:
        self._open.pop(stream, None)
        self._unsent.pop(stream, None)
        timer = self._timers.pop(stream, None)
        if timer:
            timer.cancel()

    def _settings(self) -> bytes:
        """Return the SETTINGS frame with the present stream limit and the largest header block, 64 KiB."""
        limits = ((SettingCodes.MAX_CONCURRENT_STREAMS, self._announced), (SettingCodes.MAX_HEADER_LIST_SIZE, 65536))
        return _frame(_SETTINGS, b"".join(struct.pack(">HI", *limit) for limit in limits))

    def _flush(self) -> None:
        self._write(self._h2.data_to_send())

    def _write(self, data: bytes) -> None:
        if data and self._transport and not self._stopped:
            self._transport.write(data)
