"""One libcurl handle, and what is certain about a request that failed: not taken by the peer («unsent»), or unknown.

libcurl sends a request again by itself when a reused connection dies before the first byte of an answer. Measured with
libcurl 8.23: five HTTP/2 connections cut under load made five messages arrive twice, unseen by the caller. So libcurl
reads the body by a callback, and the rewind that it needs before sending again is refused unless the server itself has
said that it did not process the stream (REFUSED_STREAM, or GOAWAY with a lower last stream).
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import pycurl

from tocsin.settings import LOOPBACK

# Called once the bytes of a message may leave: after it, nobody can say that the peer has not got it.
HandOver = Callable[[], None]


def unnoted() -> None:
    """Note nothing: for a message whose hand-over nobody will ask for."""


ANSWER_BYTES = 64 * 1024  # of an answer's body are kept, the rest is read and dropped
CONNECT_SECONDS = 10.0
AGENT = "tocsin"

Failure = Literal["", "unsent", "unknown"]
# libcurl's own words for a stream the peer refused. With a libcurl that words it differently no rewind is allowed: more
# requests are unknown, none is sent twice.
_REFUSED = b"refused by server, try again"
_GOAWAY = re.compile(rb"received GOAWAY, error=\d+, last_stream=(\d+)")
_OPENED = re.compile(rb"\[HTTP/2\] \[(\d+)\] OPENED stream")


class HttpPost(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP POST; with `get`, a GET. headers: whole lines, «name: value», without CR or LF. version: "2" asks for
    HTTP/2 by ALPN. timeout: seconds, from the wait for a connection to the last byte of the answer."""

    url: str
    headers: tuple[str, ...]
    body: bytes
    version: Literal["2", "1.1"] = "2"
    timeout: float = 30.0
    get: bool = False

    def __repr__(self) -> str:
        return f"HttpPost({len(self.body)} bytes)"  # the URL holds a device's address, the headers our credentials


class MailTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """One mail for one mailbox. sender, recipient: of the envelope, in ASCII. body: the whole message with CRLF line
    ends. timeout: seconds, from the connection to the last reply."""

    sender: str
    recipient: str
    body: bytes
    timeout: float = 60.0

    def __repr__(self) -> str:
        return f"MailTransfer({len(self.body)} bytes)"


class Headers(Mapping[str, str]):
    """An answer's headers, names in lower case; parsed on first use, which most accepted messages never need."""

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
    """The peer's answer: `status` (of HTTP, or the code of the last SMTP reply), or else `failure`: «unsent» when the
    peer certainly has not taken the message, «unknown» otherwise. detail: what failed. headers: names in lower case.
    replies: the lines of an SMTP server's last reply. step: the command it answers («greeting», «EHLO», «STARTTLS»,
    «AUTH», «MAIL», «RCPT», «DATA», «RSET», «.» for the end of the mail); of a failure «TLS», when only another setting
    would help."""

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes = b""
    failure: Failure = ""
    detail: str = ""
    replies: tuple[str, ...] = ()
    step: str = ""


# Given the IP address that a connection is about to be made to: whether it may be.
Allows = Callable[[str], bool]


def is_loopback(url: str) -> bool:
    """Return whether an http URL leads to this machine, by its host: `http://127.0.0.1:80@elsewhere/` does not."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        return False
    return parts.scheme == "http" and host in LOOPBACK and "@" not in parts.netloc


class _Descriptor:
    """A socket for pycurl, which takes a copy of the descriptor; this one is closed when pycurl lets go of it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


class Transfer:
    """A reusable libcurl handle; it carries one request at a time."""

    __slots__ = (
        "_body",
        "_get",
        "_hand_over",
        "_handed",
        "_headers",
        "_kept",
        "_lines",
        "_refused",
        "_size",
        "_timeout",
        "_trace",
        "_url",
        "curl",
    )

    def __init__(self, ca: str, idle: int) -> None:
        self.curl = curl = pycurl.Curl()
        self._body = b""
        self._handed = 0  # bytes of the body that libcurl has read, in the attempt in progress
        self._hand_over: HandOver = unnoted
        self._url = ""
        self._get = False
        self._headers: tuple[tuple[str, ...], str] = ((), "")
        self._timeout = 0.0
        self._refused = ""  # the address that the attempt in progress must not go to
        self._lines: list[bytes] = []
        self._trace: list[bytes] = []  # libcurl's trace of the attempt in progress
        self._kept: list[bytes] = []
        self._size = 0
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.READFUNCTION, self._read)
        curl.setopt(pycurl.SEEKFUNCTION, self._rewind)
        curl.setopt(pycurl.WRITEFUNCTION, self._write)
        curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        # Only libcurl's trace (some thirty lines a request) says that a stream was refused. A function of ours costs
        # 20 µs a request; `list.insert(kind, line)` takes the same two arguments and costs 7.
        curl.setopt(pycurl.VERBOSE, 1)
        curl.setopt(pycurl.DEBUGFUNCTION, self._trace.insert)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_SECONDS * 1000))
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.MAXAGE_CONN, idle)
        _trust(curl, ca)

    def prepare_http(self, *, fresh_dns: bool, allows: Allows | None = None) -> Transfer:
        """Set the options that all HTTP requests of a pool share; return self. allows: asked about each address a name
        leads to, when it is connected to: what the name meant when somebody looked before does not count."""
        curl = self.curl
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | pycurl.PROTO_HTTP)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PIPEWAIT, 1)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.USERAGENT, AGENT)
        if fresh_dns:
            curl.setopt(pycurl.DNS_CACHE_TIMEOUT, 0)
        if allows is not None:

            def open_socket(_purpose: int, address: Any) -> Any:
                if allows(str(address.addr[0])):
                    return _Descriptor(socket.socket(address.family, address.socktype, address.protocol).detach())
                self._refused = str(address.addr[0])
                return pycurl.SOCKET_BAD

            curl.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
        return self

    def load(self, request: HttpPost, hand_over: HandOver) -> None:
        """Set the handle up for one POST; options that are as before are not set again. hand_over: called before
        libcurl gets a byte of the body."""
        curl = self.curl
        self._hand_over = hand_over
        self._start(request.body, request.timeout)
        if request.url != self._url:
            self._url = request.url
            curl.setopt(pycurl.URL, request.url)
        if request.get != self._get:
            self._get = request.get
            curl.setopt(pycurl.HTTPGET if request.get else pycurl.POST, 1)
        if (request.headers, request.version) != self._headers:
            self._headers = (request.headers, request.version)
            version = pycurl.CURL_HTTP_VERSION_2TLS if request.version == "2" else pycurl.CURL_HTTP_VERSION_1_1
            curl.setopt(pycurl.HTTP_VERSION, version)
            curl.setopt(pycurl.HTTPHEADER, [*request.headers, "Expect:", "Accept:"])
        if not request.get:
            curl.setopt(pycurl.POSTFIELDSIZE, len(request.body))

    def _start(self, body: bytes, timeout: float) -> None:
        self._body = body
        self._handed = 0
        self._refused = ""
        self._trace.clear()
        self._lines.clear()
        self._kept.clear()
        self._size = 0
        if timeout != self._timeout:
            self._timeout = timeout
            self.curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout * 1000)))

    def read_answer(self) -> VendorAnswer:
        """Return the answer of a completed exchange."""
        lines, self._lines = self._lines, []
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        body = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        return VendorAnswer(status=self.curl.getinfo(pycurl.RESPONSE_CODE), headers=Headers(lines), body=body)

    def read_failure(self, error: pycurl.error) -> VendorAnswer:
        """Return the failure of a broken exchange. «unsent» when libcurl has not read the body to its end (a server
        cannot act on a body shorter than its Content-Length), or when the peer has refused the stream; else
        «unknown»."""
        certain = self.is_refused() or self._handed < len(self._body)
        code, sentence = (*error.args, "")[:2]
        if self._refused:
            return VendorAnswer(failure="unsent", detail=f"{self._refused} is an address that is not posted to")
        return VendorAnswer(failure="unsent" if certain else "unknown", detail=f"libcurl {code}: {sentence}"[:300])

    def _read(self, limit: int) -> bytes:
        if not self._handed:
            self._hand_over()
            self._trace.clear()  # another attempt begins
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
        else:
            self._trace.clear()  # what is dropped stands there too; and who answers at length has not refused

    def is_refused(self) -> bool:
        """Return whether the peer has said that it did not process this stream. The transfer that itself reads the
        GOAWAY fails with CURLE_HTTP2 without libcurl's usual words: there the stream's number is compared with GOAWAY's
        last."""
        if any(_REFUSED in line for line in self._trace):
            return True
        last = [int(found[1]) for line in self._trace if (found := _GOAWAY.search(line))]
        ours = [int(found[1]) for line in self._trace if (found := _OPENED.search(line))]
        return len(ours) == 1 and bool(last) and ours[0] > max(last)


def _trust(curl: pycurl.Curl, ca: str) -> None:
    """Set the authorities to trust. ca: PEM text; empty for the machine's store, which the bundled libcurl cannot
    find."""
    if ca:
        curl.setopt(pycurl.CAINFO_BLOB, ca.encode())
        return
    paths = ssl.get_default_verify_paths()
    if paths.cafile and os.access(paths.cafile, os.R_OK):
        curl.setopt(pycurl.CAINFO, paths.cafile)
