"""The OpenAPI document, made of the table of routes, the table of operations and the structs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from tocsin.api.endpoint import Endpoint
from tocsin.api.openapi.answers import Failure
from tocsin.api.openapi.operations import OPERATIONS, Operation
from tocsin.api.openapi.requests import CONTENTS

REF = "#/components/schemas/{name}"
EXAMPLES: dict[str, dict[str, Any]] = msgspec.json.decode((Path(__file__).parent / "examples.json").read_bytes())
SECURITY: list[dict[str, list[str]]] = [{"account": [], "passcode": []}]
SCHEMES = {
    "account": {"type": "apiKey", "in": "header", "name": "X-CleverTap-Account-Id"},
    "passcode": {"type": "apiKey", "in": "header", "name": "X-CleverTap-Passcode"},
}
REFUSALS = {
    400: "The request is wrong; the sentence says what, and where in its JSON.",
    401: "The account or the passcode is wrong.",
    403: "The passcode has not the right that this takes.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "The first request of this Idempotency-Key is under way.",
    413: "The body is too large.",
    415: "The body's Content-Encoding is neither gzip nor deflate.",
    422: "The Idempotency-Key stands for another request.",
    429: "Too fast, too many at once, or too many wrong log-ins.",
    500: "A fault of the server.",
    503: "The server cannot answer now.",
}
EVERYWHERE = (401, 403, 429, 500, 503)
OF_BODIES = (400, 408, 413, 415)
OF_REPEATS = (409, 422)
WAITING = (409, 429, 503)  # these may say when to come again
RETRY = {
    "Retry-After": {
        "description": "Seconds until it is worth trying again",
        "schema": {"type": "integer", "minimum": 1},
    }
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "For a day the same key with the same body does nothing more, and gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
ABOUT = """CleverTap's API, served by Tocsin. An account's id and a passcode go with every request; what a passcode may
do is written beside each call. Errors have one shape, `{"status": "fail", "error": "…", "code": …}`."""


def make_document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of those endpoints that are of the API."""
    described = [one for one in endpoints if one.path.startswith(("/1/", "/2/"))]
    by_path = {one.path: one for one in described}
    paths = {path: by_path[path] for path in OPERATIONS if path in by_path}  # in the order of the table
    named, components = _make_schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin",
            "version": version("tocsin"),
            "summary": "CleverTap's API, on a server of one's own",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": SECURITY,
        "tags": [{"name": topic} for topic in dict.fromkeys(one.topic for one in _list_operations())],
        "paths": {
            path: {
                method.lower(): _describe(endpoint, method, OPERATIONS[path][method], named)
                for method in endpoint.methods
                if method in OPERATIONS[path]
            }
            for path, endpoint in paths.items()
        },
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def _list_operations() -> Iterator[Operation]:
    for by_method in OPERATIONS.values():
        yield from by_method.values()


def _make_schemas() -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of every struct that an operation names, and those that they lead to by their names."""
    kinds = [kind for one in _list_operations() for kind in (one.body, one.answer) if kind is not None]
    kinds = list(dict.fromkeys([*CONTENTS.values(), Failure, *kinds]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    return dict(zip(kinds, schemas, strict=True)), _plain(components)


def _plain(value: Any) -> Any:
    """Return schemas as every generator reads them: patterns of ECMA-262, as JSON Schema has them, lists of one kind of
    element where msgspec names each, objects that say they may hold anything, and no default that says nothing."""
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    if not isinstance(value, dict):
        return value
    found = {key: _plain(one) for key, one in value.items() if key != "default" or one not in (None, [], ())}
    if isinstance(found.get("pattern"), str):
        found["pattern"] = found["pattern"].replace(r"\Z", "$")
    if kinds := found.pop("prefixItems", None):
        found["items"] = kinds[0] if all(one == kinds[0] for one in kinds) else {"anyOf": kinds}
    if found.get("type") == "object" and not found.get("properties"):
        found.setdefault("additionalProperties", True)
    return found


def _describe(endpoint: Endpoint, method: str, operation: Operation, named: dict[Any, Any]) -> dict[str, Any]:
    """Return one operation object (OpenAPI 3.1, 4.8.10)."""
    example = EXAMPLES.get(endpoint.path, {})
    found: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.topic],
        "summary": operation.says,
        "description": f"The passcode needs the right `{endpoint.right}`.",
        "parameters": [*_list_parameters(operation, named), *([KEY] if operation.repeats else [])],
        "responses": _list_responses(operation, method, example, named),
    }
    if operation.answer is None:
        found["deprecated"] = True
    if operation.body is not None:
        shown = {"schema": named[operation.body]} | ({"example": example["request"]} if example else {})
        found["requestBody"] = {"required": True, "content": {"application/json": shown}}
    return found


def _list_parameters(operation: Operation, named: dict[Any, Any]) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema, *_ = msgspec.json.schema_components([operation.query])[1].values()
    found = []
    for name, one in schema["properties"].items():
        kept = {key: value for key, value in one.items() if key != "description"}
        says = {"description": one["description"]} if "description" in one else {}
        found.append({"name": name, "in": "query", **says, "schema": kept})
    return found


def _list_responses(
    operation: Operation, method: str, example: dict[str, Any], named: dict[Any, Any]
) -> dict[str, dict[str, Any]]:
    """Return the answers by status."""
    found: dict[str, dict[str, Any]] = {}
    if operation.answer is not None:
        says = (operation.answer.__doc__ or "").replace("\n    ", " ")
        shown = {"schema": named[operation.answer]}
        if method == "POST" and "answer" in example:
            shown["example"] = example["answer"]
        found["200"] = {"description": says, "content": {"application/json": shown}}
    reading = OF_BODIES if operation.body is not None else (400,)
    repeating = OF_REPEATS if operation.repeats else ()
    for status in sorted({*EVERYWHERE, *reading, *repeating, *operation.refuses}):
        waiting = {"headers": RETRY} if status in WAITING else {}
        content = {"application/json": {"schema": named[Failure]}}
        found[str(status)] = {"description": REFUSALS[status], **waiting, "content": content}
    return found
