"""A server that speaks as much of S3 as exports need, as strict as its documentation: `python object_store.py PORT`.

Objects are in memory. A request whose signature (version 4) is not that of KEY is refused, and an upload in parts is no
object before it is completed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

KEY = ("known", "not to be told")  # an id and its secret
LEAST_PART = 5 << 20  # bytes of every part but the last
_AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\S+), SignedHeaders=(\S+), Signature=(\S+)")


class RefusedError(Exception):
    """An answer that is none of success: status, code."""


class ObjectStore(ThreadingHTTPServer):
    """buckets: objects by name. uploads: the parts of an upload by its id."""

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def _answer(self) -> None:
        parts, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("content-length") or 0))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, name = unquote(parts.path)[1:].partition("/")
        try:
            if self.command != "PUT" or name:  # the tests make buckets without signing
                check_signature(self.command, self.path, dict(self.headers), body)
            with self.server.lock:
                status, answer, headers = self._act(bucket, name, query, body)
        except RefusedError as error:
            status, code = error.args
            answer, headers = f"<Error><Code>{code}</Code></Error>".encode(), {}
        self.send_response(status)
        for header, value in {**headers, "content-length": str(len(answer))}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the names are http.server's

    def _act(self, bucket: str, name: str, query: Mapping[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "PUT" and not name:
            self.server.buckets[bucket] = {}
            return 200, b"", {}
        if bucket not in self.server.buckets:
            raise RefusedError(404, "NoSuchBucket")
        objects = self.server.buckets[bucket]
        match self.command, sorted(query):
            case "GET", names if "list-type" in names:
                return 200, list_objects(objects, query.get("prefix", "")), {}
            case "GET", []:
                if name not in objects:
                    raise RefusedError(404, "NoSuchKey")
                tag = {"etag": make_tag(objects[name]), "last-modified": "Thu, 26 Nov 2026 08:00:00 GMT"}
                return 200, objects[name], tag
            case "PUT", []:
                objects[name] = body
                return 200, b"", {"etag": make_tag(body)}
            case "POST", ["delete"]:
                keys = re.findall("<Key>(.*?)</Key>", body.decode())
                for key in keys:
                    objects.pop(unescape(key), None)
                rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                return 200, f"<DeleteResult>{rows}</DeleteResult>".encode(), {}
            case "POST", ["uploads"]:
                self.server.uploads[upload := secrets.token_hex(8)] = {}
                return 200, f"<Result><UploadId>{upload}</UploadId></Result>".encode(), {}
            case "PUT", ["partNumber", "uploadId"]:
                self.server.uploads[query["uploadId"]][int(query["partNumber"])] = body
                return 200, b"", {"etag": make_tag(body)}
            case "POST", ["uploadId"]:
                objects[name] = self._complete(query["uploadId"], body.decode())
                return 200, f"<Result><ETag>{escape(make_tag(objects[name]))}</ETag></Result>".encode(), {}
            case "DELETE", ["uploadId"]:
                self.server.uploads.pop(query["uploadId"], None)
                return 204, b"", {}
        raise RefusedError(501, "NotImplemented")

    def _complete(self, upload: str, asked: str) -> bytes:
        """Return the object that an upload comes to, of the parts that are named."""
        there = self.server.uploads.pop(upload)
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)</PartNumber>", asked)]
        tags = [tag.replace("&quot;", '"') for tag in re.findall("<ETag>(.*?)</ETag>", asked)]
        if numbers != sorted(there) or tags != [make_tag(there[number]) for number in numbers]:
            raise RefusedError(400, "InvalidPart")
        if any(len(there[number]) < LEAST_PART for number in numbers[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        return b"".join(there[number] for number in numbers)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def list_objects(objects: Mapping[str, bytes], prefix: str) -> bytes:
    rows = "".join(
        f"<Contents><Key>{escape(name)}</Key><LastModified>2026-11-26T08:00:00.000Z</LastModified>"
        f"<ETag>{escape(make_tag(raw))}</ETag><Size>{len(raw)}</Size></Contents>"
        for name, raw in sorted(objects.items())
        if name.startswith(prefix)
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


def make_tag(raw: bytes) -> str:
    return f'"{hashlib.md5(raw, usedforsecurity=False).hexdigest()}"'


def check_signature(method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
    """Refuse a request that KEY did not sign, or whose body is not the one that was signed."""
    given = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    found = _AUTHORIZATION.fullmatch(given.get("authorization", ""))
    if found is None:
        raise RefusedError(403, "AccessDenied")
    key, scope, names, signature = found.groups()
    digest = given.get("x-amz-content-sha256", "")
    if digest not in (hashlib.sha256(body).hexdigest(), "UNSIGNED-PAYLOAD"):
        raise RefusedError(400, "XAmzContentSHA256Mismatch")
    parts = urlsplit(path)
    pairs = sorted(parse_qsl(parts.query, keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    signed = "".join(f"{name}:{given[name]}\n" for name in names.split(";"))
    canonical = "\n".join([method, parts.path, query, signed, names, digest])
    text = "\n".join(["AWS4-HMAC-SHA256", given["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{KEY[1]}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    if key != KEY[0] or not hmac.compare_digest(hmac.digest(secret, text.encode(), "sha256").hex(), signature):
        raise RefusedError(403, "SignatureDoesNotMatch")


if __name__ == "__main__":
    ObjectStore(int(sys.argv[1])).serve_forever()
