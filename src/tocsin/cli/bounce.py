"""`tocsin bounce`: takes returned mails from a mail server's pipe or a Maildir to the running server."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click
import msgspec

from tocsin.cli.local_server import ask
from tocsin.cli.options import print_json
from tocsin.errors import Misconfigured
from tocsin.store.data_folder import find_running

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: mail servers keep the mail
SECONDS = 60.0
LIMIT = 1024 * 1024  # bytes of a mail that are handed over, as many as the server reads
SEEN = {"taken": ":2,S", "ignored": ":2,S", "refused": ":2,FS"}  # flags of Maildir: seen; flagged, for somebody to look


class Unreached(Exception):  # noqa: N818 - not a failure of the mail: it is tried again
    """The server did not take the mail now, and may later."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@click.option("--data", type=click.Path(path_type=Path), help="The folder of the server that runs on this machine.")
@click.option("--url", help="A server elsewhere, such as https://mail.example.com, instead of --data.")
@click.option("--forget", "address", help="Instead: let this address, suppressed by mistake, get mail again.")
@click.option("--account", "account_id", help="Whose address it is, with --forget.")
def bounce(file: Path, data: Path | None, url: str | None, address: str | None, account_id: str | None) -> None:
    """Hand a mail that came back to the running server: a delivery report or a complaint.

    FILE is the mail, - for stdin, or a Maildir: everything in its new/ is handed over and moved to cur/. A mail that
    the server refuses is named on stderr and dropped, for a bounce of a bounce goes round in circles. Exit code 75,
    «try again», when no server can be reached.

    With --forget nothing is handed over: an address that bounced is no longer suppressed, with a line in the log.

    Example: tocsin bounce --data /var/lib/tocsin
    """
    if (data is None) == (url is None):
        raise click.UsageError("Give --data or --url.")
    if (address is None) != (account_id is None) or (address is not None and data is None):
        raise click.UsageError("--forget, --account and --data go together.")
    if address is not None and account_id is not None and data is not None:
        print_json(free(data, account_id, address))
        return
    counts: Counter[str] = Counter(taken=0, ignored=0, refused=0)
    try:
        address = url.rstrip("/") if url is not None else _find_server(data)
        for raw, done in _read_mails(file):
            result = hand_over(address, raw)
            counts[result] += 1
            if done is not None:
                done.rename(done.parent.parent / "cur" / (done.name.partition(":")[0] + SEEN[result]))
    except (Unreached, Misconfigured, OSError) as error:
        click.echo(f"tocsin: {error} (try again)", err=True)
        raise SystemExit(TRY_AGAIN) from None
    print_json(dict(counts))


def free(data: Path, account_id: str, address: str) -> dict[str, Any]:
    """Let a suppressed address get mail again, by the server that runs on the folder or without one. Raises
    Misconfigured for an unknown account, and with a Problem's sentence for an address that is not suppressed."""
    from tocsin.account import find_account
    from tocsin.feedback.mail import Feedback
    from tocsin.feedback.signed_id import SignedIds
    from tocsin.store.stores import open_stores

    running = find_running(data)
    if running is not None:
        return ask(running, "/local/free", account_id, {"address": address})
    with open_stores(data) as stores:
        account = find_account(stores.ledger, account_id)
        feedback = Feedback(stores.ledger, stores.facts, SignedIds([]))
        return {"status": "success", "users": asyncio.run(feedback.free_address(account.id, address, "command"))}


def hand_over(address: str, raw: bytes) -> str:
    """POST a mail and return `taken`, `ignored` (it is no report) or `refused` (not ours, or not a mail).

    Raises Unreached when the server does not answer, or answers with anything but 200, 400, 404, 410 and 413.
    """
    request = Request(address + "/bounces", raw[:LIMIT], {"Content-Type": "message/rfc822"})  # noqa: S310 - the operator's
    try:
        with urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            answer = msgspec.json.decode(reply.read(), type=dict[str, object])
            return "ignored" if answer.get("result") == "ignored" else "taken"
    except HTTPError as error:
        if error.code not in (400, 404, 410, 413):
            raise Unreached(f"The server answered {error.code}.") from None
        text = error.read(1000).decode("utf-8", "replace")
        try:
            sentence = msgspec.json.decode(text, type=dict[str, object])["error"]
        except (msgspec.DecodeError, KeyError):  # somebody else's 404: a proxy before the server, or a wrong address
            raise Unreached(f"{address} is no Tocsin: it answered {error.code}.") from None
        click.echo(f"tocsin: refused: {sentence}", err=True)
        return "refused"
    except (OSError, HTTPException, msgspec.DecodeError, ValueError) as error:
        raise Unreached(f"The server at {address} does not answer: {error}.") from None


def _find_server(data: Path | None) -> str:
    if data is None or not data.is_dir():
        raise Unreached(f"There is no folder {data}.")
    running = find_running(data)
    if running is None:
        raise Unreached(f"No server runs on {data}.")
    return running.url


def _read_mails(file: Path) -> Iterator[tuple[bytes, Path | None]]:
    """Yield each mail and, of a Maildir, the file to move when it is done.

    Of a mail over LIMIT only the beginning is read: the report stands there.
    """
    if str(file) == "-":
        yield sys.stdin.buffer.read(LIMIT), None
        return
    if not file.is_dir():
        with file.open("rb") as source:
            yield source.read(LIMIT), None
        return
    if not all((file / name).is_dir() for name in ("new", "cur")):
        raise Unreached(f"{file} is no Maildir: it has no new/ and cur/.")
    for one in sorted((file / "new").iterdir()):
        if one.is_file() and not one.name.startswith("."):
            with one.open("rb") as source:
                yield source.read(LIMIT), one
