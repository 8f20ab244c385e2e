"""An HTTP/2 sink over TLS that answers each request with 200 after a time, many at once: APNs' side of the wire.

Of a request only the frames' heads are read, and its body for the message's number; header blocks are skipped, and as
nothing of HPACK's table is used in answers, nothing is lost by that. It announces windows that do not end.
"""

from __future__ import annotations

import ssl
import struct
import sys

from benchmarks.answering import AnsweringSink, Wire, read_arguments
from benchmarks.stamps import find_number

STREAMS = 1000  # at once on one connection, as APNs announces
WINDOW = 1 << 30
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, CONTINUATION = 0, 1, 4, 6, 9
END_STREAM = ACK = 1
_HEAD = struct.Struct(">HBBBL")  # length in 16 and 8 bits, kind, flags, stream
_SETTING = struct.Struct(">HL")
_MAX_STREAMS, _INITIAL_WINDOW = 3, 4
_STATUS_200 = b"\x88"  # RFC 7541, appendix A: index 8 of the static table
_GRANT = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + struct.pack(">L", WINDOW)  # WINDOW_UPDATE of the connection
_ANSWER = b"\x00\x00\x01\x01\x05"  # HEADERS of one byte, END_STREAM and END_HEADERS


class Http2Peer:
    """One client."""

    def __init__(self, sink: AnsweringSink, wire: Wire) -> None:
        self._sink, self._wire = sink, wire
        self._rest = b""
        self._greeted = False
        self._used = 0  # bytes of the connection's window
        self._numbers: dict[int, int] = {}  # of streams whose end has not come
        settings = _SETTING.pack(_MAX_STREAMS, STREAMS) + _SETTING.pack(_INITIAL_WINDOW, WINDOW)
        wire.out += _HEAD.pack(0, len(settings), SETTINGS, 0, 0) + settings + _GRANT

    def feed(self, data: bytes) -> None:
        """Read all whole frames."""
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        if not self._greeted:
            if end < len(PREFACE):
                self._rest = data
                return
            self._greeted, position = True, len(PREFACE)
            self._sink.touch(self._wire)
        unpack, size = _HEAD.unpack_from, _HEAD.size
        while end - position >= size:
            high, low, kind, flags, stream = unpack(data, position)
            start = position + size
            stop = start + (high << 8 | low)
            if stop > end:
                break
            position = stop
            if kind == DATA:
                self._used += stop - start
                self._read_data(data, start, stop, stream, flags)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    self._sink.take(self._wire, _ANSWER + stream.to_bytes(4) + _STATUS_200, None)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                payload = data[start:stop] if kind == PING else b""
                self._wire.out += _HEAD.pack(0, len(payload), kind, ACK, 0) + payload
                self._sink.touch(self._wire)
        self._rest = data[position:]
        if self._used > WINDOW // 2:
            self._wire.out += _GRANT[:9] + struct.pack(">L", self._used)
            self._used = 0
            self._sink.touch(self._wire)

    def _read_data(self, data: bytes, start: int, stop: int, stream: int, flags: int) -> None:
        number = find_number(data, start, stop)
        if not flags & END_STREAM:
            if number is not None:
                self._numbers.setdefault(stream, number)
            return
        if self._numbers:
            number = self._numbers.pop(stream, number)
        self._sink.take(self._wire, _ANSWER + stream.to_bytes(4) + _STATUS_200, number)


def main() -> None:
    """Serve on the port, with key.pem and cert.pem of the folder; stamps go to `stamps` in it."""
    port, pace, folder = read_arguments(sys.argv[1:])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    AnsweringSink(port, pace, folder / "stamps", Http2Peer, context).serve()


if __name__ == "__main__":
    main()
