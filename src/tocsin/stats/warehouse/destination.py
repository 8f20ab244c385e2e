"""Where files of exports go: a folder, or a bucket of an object store. A file is there whole or not at all, and one
that is written again replaces itself."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec

from tocsin.errors import Misconfigured
from tocsin.settings import Settings, hide_passwords

if TYPE_CHECKING:
    from obstore.store import ObjectStore

UNFINISHED = ".unfinished"  # with a name that no other process has: one that was stopped while it wrote may go on
BUCKETS = ("s3", "gs", "az")
CONNECT_SECONDS, REQUEST_SECONDS, RETRY_SECONDS, RETRIES = 5.0, 60.0, 120.0, 5
PART, PARTS_AT_ONCE = 8 << 20, 4  # bytes of an upload, and how many of them are under way
_QUERY = re.compile(r"\?\S*")  # of a URL: a signature of Azure's is in it


class Destination(Protocol):
    def write(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Return a file that gets its name at the end of the block, and never when that raises."""

    def remove(self, name: str) -> None:
        """Delete a file, where there is one."""

    def forget_unfinished(self, name: str) -> None:
        """Delete what is left of a file by processes that ended while they wrote it, once another one has written it.
        name: may have wildcards for its folders."""


class Folder(msgspec.Struct, frozen=True):
    """Files below a folder: written under another name and renamed once they are on the disk."""

    path: Path

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = place.with_name(f".{place.name}.{secrets.token_hex(8)}{UNFINISHED}")
        with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def forget_unfinished(self, name: str) -> None:
        place = Path(name)
        for path in self.path.glob(str(place.with_name(f".{place.name}.*{UNFINISHED}"))):
            path.unlink(missing_ok=True)


class Bucket(msgspec.Struct, frozen=True):
    """Objects of a store: written to a nameless file of this machine first, and put into place by one request, or by
    the last one of an upload in parts. Nobody sees an object before, and who puts it twice has one."""

    url: str
    store: ObjectStore

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        import obstore

        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with self._explaining():
                obstore.put(self.store, name, file, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)

    def remove(self, name: str) -> None:
        import obstore

        with self._explaining(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.store, name)

    def forget_unfinished(self, name: str) -> None:
        """Leave the parts of uploads that ended: the bucket's own rule deletes them (docs/warehouse.md)."""

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what the operator can do about an error."""
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            raise Misconfigured(f"There is no bucket for {self.url}: make it. {_clip(error)}") from None
        except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            said = f"The credentials in the environment may not write to {self.url}: read docs/warehouse.md."
            raise Misconfigured(f"{said} {_clip(error)}") from None
        except exceptions.BaseError as error:
            raise Misconfigured(f"{self.url} could not be written; it is tried again. {_clip(error)}") from None


def open_destination(settings: Settings) -> Destination | None:
    """Return where exports go; None when it is not set. Raise Misconfigured for what cannot be opened."""
    target, endpoint = settings.export_folder, settings.export_endpoint
    scheme, found, _ = target.partition("://")
    if endpoint and scheme != "s3":
        raise Misconfigured("TOCSIN_EXPORT_ENDPOINT is of an s3:// in TOCSIN_EXPORT_FOLDER; take it away.")
    if not found:
        return Folder(Path(target)) if target else None
    if scheme not in BUCKETS:
        raise Misconfigured(f"TOCSIN_EXPORT_FOLDER: {scheme}:// is none of {', '.join(BUCKETS)}.")
    parts = urlsplit(target)
    if "@" in parts.netloc or parts.query or parts.fragment:  # which nothing uses, and logs would show
        raise Misconfigured(
            f"TOCSIN_EXPORT_FOLDER is a bucket and a prefix; credentials of {scheme}:// have variables."
        )
    if not find_spec("obstore"):
        raise Misconfigured("TOCSIN_EXPORT_FOLDER is a bucket: `pip install 'tocsin[object-store]'`, or name a folder.")
    return Bucket(target, _open_bucket(target, endpoint))


def _open_bucket(target: str, endpoint: str) -> ObjectStore:
    from obstore import exceptions
    from obstore.store import from_url

    own = {"endpoint": _check_endpoint(endpoint)} if endpoint else {}
    client = {"timeout": timedelta(seconds=REQUEST_SECONDS), "connect_timeout": timedelta(seconds=CONNECT_SECONDS)}
    plain = {"allow_http": True} if endpoint.startswith("http://") else {}
    retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    try:
        return from_url(target, config=own, client_options=client | plain, retry_config=retry)  # type: ignore[call-overload,no-any-return]
    except (exceptions.BaseError, ValueError) as error:
        raise Misconfigured(f"TOCSIN_EXPORT_FOLDER: {_clip(error)}") from None


def _check_endpoint(url: str) -> str:
    """Return the URL. Plain HTTP is for a network of the operator's own: requests are signed, and hold no secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise Misconfigured(f"TOCSIN_EXPORT_ENDPOINT has to be a URL, not {hide_passwords(url)!r}.")
    return url.rstrip("/")


def _clip(error: Exception) -> str:
    """Return what an error says, without what is for the library's authors and without a URL's signature."""
    return _QUERY.sub("?…", str(error).partition("\n")[0])
