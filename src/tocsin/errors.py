"""Every error a caller or an operator can meet, and the one function that reads a caller's JSON into a struct. Anything
else that is raised is a bug.

`Problem` is the caller's: it has a code, a sentence that names the place in their JSON, and an HTTP status.
`Misconfigured` is the operator's: it stops the start or the lane and says what to do. It is deliberately not a
`Problem`, so no route can swallow it into an answer.

What callers send is declared as msgspec structs, and `read_struct` is the one way from their JSON to one of these.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class Problem(Exception):  # noqa: N818 - the word of RFC 9457; it is an answer, not a failure of ours
    """The caller's request cannot be honoured as it stands; sending it again unchanged will not help.

    code: the number in the answer's `code`, by the documented registry where one exists, else the HTTP status;
        None where the documented answer has none («This target hasn't been completed»).
    status: the HTTP status. retry_after: seconds for a `Retry-After` header, where waiting does help.
    """

    def __init__(self, error: str, *, code: int | None = 400, status: int = 400, retry_after: int | None = None):
        super().__init__(error)
        self.error = error
        self.code = code
        self.status = status
        self.retry_after = retry_after

    def encode(self) -> bytes:
        """Return the one shape of an error, {status, error, code}; `code` is missing only where the documented answer
        has none."""
        body: dict[str, object] = {"status": "fail", "error": self.error}
        return msgspec.json.encode(body if self.code is None else body | {"code": self.code})


class Misconfigured(Exception):  # noqa: N818 - named for what the operator has to mend, not for Python's habit
    """The operator has to change something; the sentence says what."""


class Invalid(ValueError):  # noqa: N818 - not a failure of ours either
    """A struct's values do not go together: raised in its `__post_init__`, so that msgspec adds the struct's place.

    field: the rest of the place, from the struct on: `.value`, `.days[1]`.
    """

    def __init__(self, sentence: str, field: str = ""):
        super().__init__(sentence)
        self.field = field


_ready: set[Any] = set()
_lock = threading.Lock()
_ERROR = re.compile(r"(.*?)(?: - at `(?:key in `)?\$([^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_type_info: Callable[[Any], inspect.Type] = functools.cache(inspect.type_info)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def forget_frames(error: E) -> E:
    """Return an error that is kept, without the frames that it and its causes came through. One of them holds it, and
    all of them hold what they were about: a circle that keeps a whole body until garbage is looked for, which stops
    everybody for a tenth of a second."""
    rest: list[BaseException | None] = [error]
    seen = set[int]()
    while rest:
        if (one := rest.pop()) is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            rest += (one.__cause__, one.__context__)
    return error


def read_struct(raw: Any, kind: type[T], place: str = "$", *, start: str = "", code: int = 400) -> T:
    """Return the caller's JSON as a `kind`, which is a struct or another type that msgspec checks.

    place: where `raw` stands in the request. Raise Problem with `start`, what is wrong, and where:
    «limit must be a whole number from 1 to 100, not 101 (at $.limit)». The sentence is made from the type at that
    place; a type with `Meta(extra={"is": …})` has its own words for what it must be, and {"code": …} its own code.
    """
    if kind not in _ready:
        with _lock:  # msgspec lets a second thread use a type that a first one has half looked at
            msgspec.json.Decoder(kind)
            _ready.add(kind)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        found = forget_frames(error)
    text, at = _ERROR.fullmatch(str(found)).groups(default="")  # type: ignore[union-attr]  # matches every text
    if isinstance(found.__cause__, Invalid):
        sentence, at = text, at + found.__cause__.field
    else:
        sentence, at, code = _explain(raw, _type_info(kind), text, place, at, code)
    raise Problem(f"{start}{sentence} (at {place}{at})", code=code)


def show(value: Any) -> str:
    """Return something of the caller's for a sentence of ours, 80 letters of it at most."""
    return repr(value)[:80]


def _explain(raw: Any, kind: inspect.Type, text: str, place: str, at: str, code: int) -> tuple[str, str, int]:
    """Return the sentence, the place and the code for one of msgspec's own errors."""
    with suppress(LookupError, TypeError):  # a key that looks like the end of an error leads nowhere
        for name, index in _STEP.findall(at):
            kind, raw = _enter(kind, name or int(index)), raw[name or int(index)]
    field = _FIELD.fullmatch(text)
    if field is not None and field[1] == "contains unknown":
        known = sorted(one.encode_name for struct in _flatten(kind) for one in getattr(struct, "fields", ()))
        return f"{show(field[2])} is not supported here; known are {', '.join(known)}", f"{at}.{field[2][:80]}", code
    given = f", not {len(raw) if isinstance(raw, list) and 'of length' in text else show(raw)}"
    if field is not None:
        kind, at, given = _enter(kind, field[2]), f"{at}.{field[2]}", ""
    codes = [extra["code"] for one in _flatten(kind) if "code" in (extra := getattr(one, "extra", None) or {})]
    name, needed = f"{place}{at}".rpartition(".")[2], _describe(kind)
    # As documented for CleverTap's code 73: "respect_frequency_caps" must be a Boolean.
    sentence = f'"{name}" must be a Boolean' if needed == "a Boolean" else f"{name} must be {needed}{given}"
    return sentence, at, codes[0] if codes else code


def _flatten(kind: inspect.Type) -> list[inspect.Type]:
    """Return a type, and what it is made of where it is a union or carries metadata."""
    match kind:
        case inspect.UnionType(types=kinds):
            return [kind, *(one for inner in kinds for one in _flatten(inner))]
        case inspect.Metadata(type=inner):
            return [kind, *_flatten(inner)]
    return [kind]


def _enter(kind: inspect.Type, step: str | int) -> inspect.Type:
    """Return the type of a field or an element."""
    tags = []
    for one in _flatten(kind):
        match one:
            case inspect.StructType(tag_field=tag_field, tag=tag) if tag_field == step:
                tags.append(tag)
            case inspect.StructType(fields=fields) if found := [one for one in fields if one.encode_name == step]:
                return found[0].type
            case inspect.TupleType(item_types=kinds) if isinstance(step, int):
                return kinds[step]
            case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner) if isinstance(step, int):
                return inner
    return inspect.LiteralType(tuple(tags)) if tags else inspect.AnyType()


def _describe(kind: inspect.Type) -> str:
    """Return what a value of the type must be: «a whole number from 1 to 365»."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return str((extra or {}).get("is") or _describe(inner))
        case inspect.UnionType(types=kinds):
            words = (_describe(one) for one in kinds if not isinstance(one, inspect.NoneType))
            return " or ".join(dict.fromkeys(words))
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.TupleType(item_types=kinds):
            return f"a list of {len(kinds)} elements"
    word, joined, unit = _WORDS.get(type(kind), ("an object", "", ""))
    given = [(bound, value) for name, bound in _BOUNDS if (value := getattr(kind, name, None)) is not None]
    if [bound for bound, _ in given] == ["at least", "at most"]:
        return f"{word} {joined} {given[0][1]} to {given[1][1]}{unit}"
    bounds = " and ".join(f"{bound} {value}{unit}" for bound, value in given)
    return f"{word}{' of' if bounds.startswith('at') else ''} {bounds}".rstrip()


_WORDS: dict[type, tuple[str, str, str]] = {
    inspect.BoolType: ("a Boolean", "", ""),
    inspect.IntType: ("a whole number", "from", ""),
    inspect.FloatType: ("a number", "from", ""),
    inspect.StrType: ("a text", "of", " letters"),
    inspect.ListType: ("a list", "of", " elements"),
    inspect.VarTupleType: ("a list", "of", " elements"),
}
_BOUNDS = (
    *(("ge", "at least"), ("min_length", "at least"), ("gt", "above")),
    *(("le", "at most"), ("max_length", "at most"), ("lt", "below")),
)
