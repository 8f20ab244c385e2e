"""A sink of ours in a process of its own: it answers when it is told to and stamps every numbered message."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.answering import Pace, Tally
from benchmarks.sink import make_certificate
from benchmarks.stamps import Stamp, read_stamps
from tocsin.demo import free_port

ROOT = Path(__file__).parent.parent


class TimedSink:
    """provider, settings: what an account is given to send there."""

    def __init__(self, process: subprocess.Popen[str], provider: str, settings: dict[str, Any], stamps: Path) -> None:
        self.provider, self.settings = provider, settings
        self._process, self._stamps = process, stamps

    def ask(self, words: str = "count") -> Tally:
        """Tell the sink «tails on», «tails off» or «count»; return what it has counted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Tally)

    def stamps(self) -> list[Stamp]:
        """Return the stamps so far; the last tenth of a second may be missing."""
        return read_stamps(self._stamps)


@contextmanager
def open_timed_sink(folder: Path, pace: Pace, *, email: bool = False) -> Iterator[TimedSink]:
    """Run a sink of pushes for APNs, or of mails, while the context lasts."""
    folder.mkdir()
    port = free_port(18_425 if email else 18_443, 1)
    settings = _mail_settings(port) if email else _apns_settings(port, make_certificate(folder))
    module = "benchmarks.mail_sink" if email else "benchmarks.push_sink"
    command = [sys.executable, "-m", module, str(port), msgspec.json.encode(pace).decode(), str(folder)]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the sink did not start")
            yield TimedSink(process, "smtp" if email else "apns", settings, folder / "stamps")
        finally:
            process.kill()


def _apns_settings(port: int, ca: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return {
        "key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "key_id": "BENCH00000",
        "team_id": "BENCH00000",
        "topic": "example.bench",
        "endpoint": f"https://127.0.0.1:{port}",
        "ca": ca,
    }


def _mail_settings(port: int) -> dict[str, Any]:
    return {"sender": "news@bench.example", "host": "127.0.0.1", "port": port, "tls": "none"}
