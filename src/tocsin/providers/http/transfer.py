"""One libcurl handle, and what can be sworn about the request it carried: taken, certainly not taken, or nobody knows.

libcurl sends a request again by itself when a reused connection dies before the first byte of an answer. Measured with
libcurl 8.23: five HTTP/2 connections cut under load made five messages arrive twice, without a word to the caller. The
body is therefore handed over by a read callback, and the rewind libcurl needs before sending again is refused unless
the server itself has said that it did not process the stream (REFUSED_STREAM, or GOAWAY with a lower last stream).
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import pycurl

ANSWER_BYTES = 64 * 1024  # of an answer's body are kept, the rest is read and dropped
CONNECT_SECONDS = 10.0
AGENT = "tocsin"

Failure = Literal["", "unsent", "unknown"]
# libcurl's own sentence for a stream the peer refused; without it the rewind is refused, which costs an `unknown`
# instead of a second copy. A libcurl that words it differently is safe, only less generous.
_REFUSED = b"refused by server, try again"
_GOAWAY = re.compile(rb"received GOAWAY, error=\d+, last_stream=(\d+)")
_OPENED = re.compile(rb"\[HTTP/2\] \[(\d+)\] OPENED stream")
_LOOPBACK = ("http://127.0.0.1", "http://localhost", "http://[::1]")


class HttpPost(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP POST. headers: whole lines, «name: value», without CR or LF. version: "2" asks for HTTP/2 by ALPN, "1.1"
    keeps to HTTP/1.1. timeout: seconds for everything from the wait for a connection to the last byte."""

    url: str
    headers: tuple[str, ...]
    body: bytes
    version: Literal["2", "1.1"] = "2"
    timeout: float = 30.0

    def __repr__(self) -> str:
        return f"Request({len(self.body)} bytes)"  # the URL holds a device's address, the headers our credentials


class MailTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """One mail for one mailbox. sender, recipient: of the envelope, in ASCII. body: the whole message with CRLF line
    ends. timeout: seconds, from the connection to the last reply."""

    sender: str
    recipient: str
    body: bytes
    timeout: float = 60.0

    def __repr__(self) -> str:
        return f"Envelope({len(self.body)} bytes)"


class Headers(Mapping[str, str]):
    """An answer's header lines, names in lower case; read only when somebody asks, which for a yes nobody does."""

    __slots__ = ("_lines", "_read")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._read: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._parse()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parse())

    def __len__(self) -> int:
        return len(self._parse())

    def _parse(self) -> dict[str, str]:
        if self._read is None:
            self._read = {}
            for line in self._lines:
                name, colon, value = line.decode("latin-1").partition(":")
                if colon:
                    self._read[name.lower()] = value.strip()
        return self._read


class VendorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Either `status` is the peer's (HTTP status or last SMTP reply code), or `failure` is not empty:
    "unsent" is certain (the peer cannot have taken the message), "unknown" is everything else. detail: libcurl's
    sentence. headers: names in lower case. replies: the lines of an SMTP server's last reply, step: what it answers
    («greeting», «EHLO», «STARTTLS», «AUTH», «MAIL», «RCPT», «DATA», «.» for the end of the mail)."""

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes = b""
    failure: Failure = ""
    detail: str = ""
    replies: tuple[str, ...] = ()
    step: str = ""


def is_loopback(url: str) -> bool:
    """True for a plain http URL on this machine, the only place where no TLS is accepted."""
    return any(url == start or url.startswith((start + ":", start + "/")) for start in _LOOPBACK)


class Transfer:
    """A handle that is used again and again for one kind of exchange; it carries one request at a time."""

    __slots__ = ("_body", "_handed", "_headers", "_kept", "_lines", "_size", "_timeout", "_told", "_url", "curl")

    def __init__(self, ca: str, idle: int) -> None:
        self.curl = curl = pycurl.Curl()
        self._body = b""
        self._handed = 0  # bytes of the body that libcurl has taken, in the attempt under way
        self._url = ""
        self._headers: tuple[tuple[str, ...], str] = ((), "")
        self._timeout = 0.0
        self._lines: list[bytes] = []
        self._told: list[bytes] = []  # libcurl's trace of the attempt under way
        self._kept: list[bytes] = []
        self._size = 0
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.READFUNCTION, self._read)
        curl.setopt(pycurl.SEEKFUNCTION, self._rewind)
        curl.setopt(pycurl.WRITEFUNCTION, self._write)
        curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        # The refusal is only told in libcurl's trace: some thirty lines a request. A function of ours would cost 20 µs
        # a request; `list.insert(kind, line)` takes the same two arguments and costs 7.
        curl.setopt(pycurl.VERBOSE, 1)
        curl.setopt(pycurl.DEBUGFUNCTION, self._told.insert)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_SECONDS * 1000))
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.MAXAGE_CONN, idle)
        _trust(curl, ca)

    def prepare_http(self, *, fresh_dns: bool) -> Transfer:
        """Sets what every HTTP request of a pool has in common."""
        curl = self.curl
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | pycurl.PROTO_HTTP)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PIPEWAIT, 1)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.USERAGENT, AGENT)
        if fresh_dns:
            curl.setopt(pycurl.DNS_CACHE_TIMEOUT, 0)
        return self

    def load(self, request: HttpPost) -> None:
        """Makes the handle ready for one POST."""
        curl = self.curl
        self._start(request.body, request.timeout)
        if request.url != self._url:
            self._url = request.url
            curl.setopt(pycurl.URL, request.url)
        if (request.headers, request.version) != self._headers:
            self._headers = (request.headers, request.version)
            version = pycurl.CURL_HTTP_VERSION_2TLS if request.version == "2" else pycurl.CURL_HTTP_VERSION_1_1
            curl.setopt(pycurl.HTTP_VERSION, version)
            curl.setopt(pycurl.HTTPHEADER, [*request.headers, "Expect:", "Accept:"])
        curl.setopt(pycurl.POSTFIELDSIZE, len(request.body))

    def _start(self, body: bytes, timeout: float) -> None:
        self._body = body
        self._handed = 0
        self._told.clear()
        self._lines.clear()
        self._kept.clear()
        self._size = 0
        if timeout != self._timeout:
            self._timeout = timeout
            self.curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout * 1000)))

    def read_answer(self) -> VendorAnswer:
        """The answer of a finished HTTP exchange."""
        lines, self._lines = self._lines, []
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        body = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        return VendorAnswer(status=self.curl.getinfo(pycurl.RESPONSE_CODE), headers=Headers(lines), body=body)

    def read_failure(self, error: pycurl.error) -> VendorAnswer:
        """What can be said of an exchange that broke. A peer cannot act on a message whose end libcurl was never given:
        an HTTP body shorter than its length, a mail without its final dot (RFC 5321 4.1.1.4). So a body not handed over
        to the end proves that nothing was taken; so does the peer's own refusal. Everything else is unknown."""
        certain = self.is_refused() or self._handed < len(self._body)
        code, sentence = (*error.args, "")[:2]
        return VendorAnswer(failure="unsent" if certain else "unknown", detail=f"libcurl {code}: {sentence}"[:300])

    def _read(self, limit: int) -> bytes:
        if not self._handed:
            self._told.clear()  # from here on another attempt is on its way
            if len(self._body) <= limit:
                self._handed = len(self._body)
                return self._body
        piece = self._body[self._handed : self._handed + limit]
        self._handed += len(piece)
        return piece

    def _rewind(self, _offset: int, _origin: int) -> int:
        if not self.is_refused():
            return pycurl.SEEKFUNC_FAIL  # type: ignore[no-any-return]
        self._handed = 0
        return pycurl.SEEKFUNC_OK  # type: ignore[no-any-return]

    def _write(self, piece: bytes) -> None:
        if self._size < ANSWER_BYTES:
            self._kept.append(piece[: ANSWER_BYTES - self._size])
            self._size += len(piece)

    def is_refused(self) -> bool:
        """The peer has said that it did not process this stream. The transfer that itself reads the GOAWAY is not told
        by libcurl in the usual words (it fails with CURLE_HTTP2): its own trace has both numbers to compare."""
        if any(_REFUSED in line for line in self._told):
            return True
        last = [int(found[1]) for line in self._told if (found := _GOAWAY.search(line))]
        ours = [int(found[1]) for line in self._told if (found := _OPENED.search(line))]
        return len(ours) == 1 and bool(last) and ours[0] > max(last)


def _trust(curl: pycurl.Curl, ca: str) -> None:
    """`ca` is PEM text; empty means the machine's own store, which the bundled libcurl does not know by itself."""
    if ca:
        curl.setopt(pycurl.CAINFO_BLOB, ca.encode())
        return
    paths = ssl.get_default_verify_paths()
    if paths.cafile and os.access(paths.cafile, os.R_OK):
        curl.setopt(pycurl.CAINFO, paths.cafile)
