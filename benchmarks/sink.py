"""Where the messages of `tocsin bench dispatch` go.

Pushes: nghttpd (Debian: nghttp2-server), an HTTP/2 server over TLS that answers as FCM does. Mails: smtp-sink (Debian:
postfix). Where one is not installed, the sandbox takes its place.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tocsin.demo import free_port
from tocsin.demo.stage import running

CONNECTIONS, STREAMS = 4, 100  # as the pool of our FCM client
READY_SECONDS = 10.0


class Sink(msgspec.Struct, frozen=True):
    """name: what is listening. fcm: the provider's settings for it. url: where messages go. process: its id."""

    name: str
    fcm: dict[str, Any]
    url: str
    process: int


@contextmanager
def open_sink(folder: Path) -> Iterator[Sink]:
    """Run a sink of pushes while the context lasts."""
    folder.mkdir()
    daemon = shutil.which("nghttpd")
    with _run_nghttpd(daemon, folder) if daemon else _run_sandbox(folder) as sink:
        yield sink


@contextmanager
def _run_nghttpd(daemon: str, folder: Path) -> Iterator[Sink]:
    port = free_port(18_443, 1)
    origin = f"https://127.0.0.1:{port}"
    files = {
        "v1/projects/bench/messages:send": b'{"name":"projects/bench/messages/0:1735689600000001%bench"}',
        "token": b'{"access_token":"ya29.' + b"x" * 180 + b'","expires_in":3600,"token_type":"Bearer"}',
    }
    for name, content in files.items():
        path = folder / "www" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    ca = make_certificate(folder)
    command = [daemon, "-n1", "-d", str(folder / "www"), str(port), str(folder / "key.pem"), str(folder / "cert.pem")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            wait_for(port)
            settings = {"service_account": _service_account(f"{origin}/token"), "endpoint": origin, "ca": ca}
            yield Sink("nghttpd", settings, f"{origin}/v1/projects/bench/messages:send", process.pid)
        finally:
            process.kill()


@contextmanager
def _run_sandbox(folder: Path) -> Iterator[Sink]:
    with _run_sandbox_vendors(folder) as (pid, given):
        account = given["fcm"]["service_account"]
        settings = {
            "service_account": msgspec.json.encode(account).decode(),
            "endpoint": given["fcm"]["endpoint"],
            "ca": given["ca"],
        }
        url = f"{given['fcm']['endpoint']}/v1/projects/{account['project_id']}/messages:send"
        yield Sink("sandbox", settings, url, pid)


@contextmanager
def _run_sandbox_vendors(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    port = free_port(18_400, 7)
    with (folder / "log").open("ab") as log, running(log, "sandbox", "--port", str(port)) as pid:
        with urlopen(f"http://127.0.0.1:{port}/credentials", timeout=10) as reply:
            given: dict[str, Any] = msgspec.json.decode(reply.read())
        yield pid, given


@contextmanager
def open_mail_sink(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a sink of mails while the context lasts; give its name and the provider's settings for it.

    smtp-sink is spoken to in the clear, the sandbox with TLS and a log-in. Mails are signed with RSA-2048.
    """
    folder.mkdir()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signed = {
        "sender": "news@bench.example",
        "dkim_domain": "bench.example",
        "dkim_selector": "bench",
        "dkim_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    }
    program = shutil.which("smtp-sink") or shutil.which("/usr/sbin/smtp-sink")
    if program is None:
        with _run_sandbox_vendors(folder) as (_pid, given):
            smtp = {**given["smtp"], "ca": given["ca"]}
            yield "sandbox", {**signed, **smtp}
        return
    port = free_port(18_425, 1)
    who = ["-u", "nobody"] if os.geteuid() == 0 else []  # it will not run as root
    command = [program, *who, f"127.0.0.1:{port}", "200"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            wait_for(port)
            yield "smtp-sink", {**signed, "host": "127.0.0.1", "port": port, "tls": "none"}
        finally:
            process.kill()


def press_with_h2load(url: str, folder: Path, requests: int, streams: int = STREAMS) -> float | None:
    """Return the requests a second of h2load to a sink; None where it is not installed or not understood."""
    program = shutil.which("h2load")
    if program is None:
        return None
    body = folder / "body"
    body.write_bytes(b'{"message":{"token":"' + b"t" * 160 + b'","data":{"text":"' + b"w" * 300 + b'"}}}')
    options = ["-n", str(requests), "-c", str(CONNECTIONS), "-m", str(streams), "-t", "1", "-d", str(body)]
    done = subprocess.run(  # noqa: S603 - a program of this machine, no input of anybody's
        [program, *options, url], capture_output=True, text=True, check=False, timeout=300
    )
    found = re.search(r"finished in [^,]+, ([0-9.]+) req/s", done.stdout)
    return float(found[1]) if found else None


def _service_account(token_uri: str) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {
        "type": "service_account",
        "project_id": "bench",
        "private_key_id": "bench",
        "private_key": pem,
        "client_email": "bench@bench.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    return msgspec.json.encode(account).decode()


def make_certificate(folder: Path) -> str:
    """Write cert.pem and key.pem for 127.0.0.1 into the folder; return the certificate, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench sink")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pem.decode()


def wait_for(port: int) -> None:
    """Return once something listens on the port. Raises OSError after READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                print("the sink does not listen", file=sys.stderr)
                raise
            time.sleep(0.05)
        else:
            return
