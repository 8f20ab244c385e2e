"""The fields of a form of settings: what each shows, what was typed into it, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from tocsin.dashboard.texts import ENGLISH
from tocsin.errors import Problem, read_struct

LETTERS = 20_000  # of one field; a service account has some 2,400
_PLACE = re.compile(r" ?\(at \$\.?([\w.]*)[^()]*\)$")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One field. value: what is shown in it, of a secret nothing. given: what was typed. kept: a secret that stays when
    nothing is typed. group: the heading it stands under."""

    name: str
    label: str
    kind: Literal["text", "secret", "file", "choice", "tick"] = "text"
    hint: str = ""
    value: str = ""
    given: str = ""
    options: tuple[tuple[str, str], ...] = ()
    required: bool = False
    kept: bool = False
    group: str = ""


class FormMistake(Exception):  # noqa: N818 - an answer, as Problem is
    """What is wrong with a form. field: "" for the whole of it. refused: a vendor said so, and may be overruled."""

    def __init__(self, field: str, sentence: str, *, refused: bool = False):
        super().__init__(sentence)
        self.field, self.sentence, self.refused = field, sentence, refused

    @classmethod
    def naming(cls, sentence: str, fields: Sequence[str]) -> FormMistake:
        """Return the mistake of a sentence that names its field."""
        found = re.search(rf"\b({'|'.join(fields)})\b", sentence)
        return cls(found[1] if found else fields[0], sentence)


def read_entries(entries: Sequence[Entry]) -> dict[str, str]:
    """Return what was typed, by the fields' names. Raise FormMistake for what no field takes."""
    for one in entries:
        if one.required and not one.given:
            raise FormMistake(one.name, ENGLISH.is_needed.format(label=one.label))
        if len(one.given) > LETTERS or (one.kind != "file" and not one.given.isprintable()):
            raise FormMistake(one.name, ENGLISH.not_a_line.format(label=one.label))
        if one.kind == "choice" and one.given not in dict(one.options):
            raise FormMistake(one.name, ENGLISH.not_a_choice.format(label=one.label))
    return {one.name: one.given for one in entries}


def show_struct_mistake(given: Any, kind: Any, fields: Sequence[str], prefix: str = "") -> None:
    """Raise FormMistake where values are not what a struct takes. prefix: before the fields' names in the form."""
    try:
        read_struct(given, kind)
    except Problem as problem:
        place = _PLACE.search(problem.error)
        field = next((one for one in fields if place and one == place[1]), fields[0])
        raise FormMistake(f"{prefix}{field}", _PLACE.sub("", problem.error)) from None
