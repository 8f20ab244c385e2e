"""An SMTP sink in the clear that takes each mail after a time and notes its number, which stands in the subject."""

from __future__ import annotations

import sys

from benchmarks.answering import AnsweringSink, Wire, read_arguments
from benchmarks.stamps import find_number

_REPLIES = {
    b"EHLO": b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250 8BITMIME\r\n",
    b"HELO": b"250 sink.example\r\n",
    b"MAIL": b"250 OK\r\n",
    b"RCPT": b"250 OK\r\n",
    b"RSET": b"250 OK\r\n",
    b"NOOP": b"250 OK\r\n",
    b"DATA": b"354 End with a dot\r\n",
    b"QUIT": b"221 Bye\r\n",
}


class SmtpPeer:
    """One client."""

    def __init__(self, sink: AnsweringSink, wire: Wire) -> None:
        self._sink, self._wire = sink, wire
        self._rest = b""
        self._in_mail = False
        wire.out += b"220 sink.example ESMTP\r\n"
        sink.touch(wire)

    def feed(self, data: bytes) -> None:
        """Read all whole commands and mails."""
        data = self._rest + data if self._rest else data
        position = 0
        while True:
            stop = data.find(b"\r\n.\r\n" if self._in_mail else b"\r\n", position)
            if stop < 0:
                break
            if self._in_mail:
                self._in_mail = False
                self._sink.take(self._wire, b"250 2.0.0 OK queued\r\n", find_number(data, position, stop))
                position = stop + 5
                continue
            verb = data[position : position + 4].upper()
            self._in_mail = verb == b"DATA"
            self._wire.out += _REPLIES.get(verb, b"500 what\r\n")
            self._sink.touch(self._wire)
            position = stop + 2
        self._rest = data[position:]


def main() -> None:
    """Serve on the port; stamps go to `stamps` in the folder."""
    port, pace, folder = read_arguments(sys.argv[1:])
    AnsweringSink(port, pace, folder / "stamps", SmtpPeer).serve()


if __name__ == "__main__":
    main()
