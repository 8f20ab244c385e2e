"""The API for people to read, at `/docs`: the OpenAPI document as one page, with the account of who is logged in."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api import ENDPOINTS, Context
from tocsin.api.openapi.document import make_document
from tocsin.dashboard.campaigns import server_of
from tocsin.dashboard.page import Frame, Visitor, render
from tocsin.dashboard.visitor import find_visitor

SOMEWHERE, NOBODY = "https://HOST", "ABC-DEF-GHIJ"  # in the examples of who is not logged in
QUOTED = re.compile(r"`([^`]+)`")
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} elements",
    "maxItems": "at most {} elements",
    "minLength": "at least {} letters",
    "maxLength": "at most {} letters",
}


class ApiType(msgspec.Struct, frozen=True):
    """What a value must be, in words. links: structs it is made of."""

    words: str
    links: tuple[str, ...] = ()


class ApiField(msgspec.Struct, frozen=True):
    """One field of a struct, or one parameter."""

    name: str
    kind: ApiType
    required: bool
    says: str = ""


class ApiStruct(msgspec.Struct, frozen=True):
    """One struct of the document."""

    name: str
    says: str
    fields: tuple[ApiField, ...]


class ApiCall(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. body, answer: names of structs, "" for none. example, answered: JSON."""

    topic: str
    name: str
    method: str
    path: str
    says: str
    right: str
    parameters: tuple[ApiField, ...]
    body: str
    answer: str
    example: Any
    answered: Any
    statuses: Mapping[str, str]


class ApiReference(msgspec.Struct, frozen=True):
    """The whole document, as the page goes through it."""

    version: str
    topics: dict[str, list[ApiCall]]
    structs: tuple[ApiStruct, ...]


async def show_reference(context: Context, request: Request) -> Response:
    """Show the API: to somebody logged in with their account in its examples, to everybody else always the same."""
    session = await find_visitor(context, request)
    if session is None:
        return _show_strangers()
    frame = Frame(Visitor(session.account, session.role, session), context.clock(), "api")
    return render("api.html", frame=frame, api=_read_document(), server=server_of(request), account_id=frame.account.id)


@functools.cache  # who asks without a log-in costs nothing
def _show_strangers() -> Response:
    return render("api.html", frame=None, api=_read_document(), server=SOMEWHERE, account_id=NOBODY)


@functools.cache
def _read_document() -> ApiReference:
    document = make_document(ENDPOINTS)
    topics: dict[str, list[ApiCall]] = {one["name"]: [] for one in document["tags"]}
    for path, methods in document["paths"].items():
        for method in sorted(methods, reverse=True):
            call = _read_call(method.upper(), path, methods[method])
            topics[call.topic].append(call)
    structs = tuple(_read_struct(name, schema) for name, schema in document["components"]["schemas"].items())
    return ApiReference(document["info"]["version"], topics, structs)


def _read_call(method: str, path: str, operation: Mapping[str, Any]) -> ApiCall:
    answered = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return ApiCall(
        topic=operation["tags"][0],
        name=operation["operationId"],
        method=method,
        path=path,
        says=mark_code(operation["summary"]),
        right=mark_code(operation["description"]),
        parameters=tuple(
            ApiField(
                one["name"], describe_type(one["schema"]), required=False, says=mark_code(one.get("description", ""))
            )
            for one in operation["parameters"]
        ),
        body=_name_of(body.get("schema", {})),
        answer=_name_of(answered.get("schema", {})),
        example=body.get("example"),
        answered=answered.get("example"),
        statuses={
            status: mark_code(one["description"]) for status, one in operation["responses"].items() if status != "200"
        },
    )


def _read_struct(name: str, schema: Mapping[str, Any]) -> ApiStruct:
    required = schema.get("required", ())
    fields = tuple(
        ApiField(key, describe_type(one), key in required, mark_code(one.get("description", "")))
        for key, one in schema.get("properties", {}).items()
    )
    return ApiStruct(name, mark_code(schema.get("description", "")), fields)


def _name_of(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def mark_code(text: str) -> Markup:
    """Return a text as HTML, what stands in back quotes as code."""
    return Markup(QUOTED.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def describe_type(schema: Mapping[str, Any]) -> ApiType:
    """Return what a value of a schema must be."""
    if name := _name_of(schema):
        return ApiType("", (name,))
    if "enum" in schema:
        return ApiType(" or ".join(map(str, schema["enum"])))
    if "anyOf" in schema:
        kinds = [describe_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        words = " or ".join(dict.fromkeys(one.words for one in kinds if one.words))
        return ApiType(words, tuple(dict.fromkeys(link for one in kinds for link in one.links)))
    bounds = ", ".join(text.format(schema[key]) for key, text in BOUNDS.items() if key in schema)
    inner = schema.get("items") or schema.get("additionalProperties") or {}
    of = describe_type(inner) if isinstance(inner, Mapping) and inner else ApiType("")
    words = str(schema.get("type", "any JSON")) + (f" of {of.words}" if of.words else "")
    return ApiType(f"{words} ({bounds})" if bounds else words, of.links)
