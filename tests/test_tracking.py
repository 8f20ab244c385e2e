"""The signed id in every message: what was given out is read back, and nothing else is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.delivery.push_id import read_push_id, sign_push_id
from tocsin.errors import Problem

LETTERS = string.ascii_letters + string.digits + "-_"

secrets = st.binary(min_size=32, max_size=32)
chunks = st.integers(0, 2**63 - 1)
positions = st.integers(0, 999)


@given(secrets, chunks, positions)
def test_an_id_is_read_back(secret: bytes, chunk: int, position: int) -> None:
    """The id of a message names its chunk and position, in 27 letters that need no quoting in a URL."""
    push_id = sign_push_id(secret, chunk, position)
    assert len(push_id) == 27
    assert set(push_id) <= set(LETTERS)
    assert read_push_id(secret, push_id) == (chunk, position)


@given(secrets, chunks, positions, st.integers(0, 26), st.sampled_from(LETTERS + "=!. é"))
def test_a_changed_letter_is_refused(secret: bytes, chunk: int, position: int, place: int, letter: str) -> None:
    """An id with any letter changed is none that this server gave out."""
    push_id = sign_push_id(secret, chunk, position)
    changed = push_id[:place] + letter + push_id[place + 1 :]
    if changed != push_id:
        with pytest.raises(Problem, match="not one this server gave out"):
            read_push_id(secret, changed)


def test_the_last_letter_is_part_of_the_id() -> None:
    """Of the 64 last letters exactly one is right, although 27 letters hold two bits more than are signed."""
    secret = bytes(range(32))
    push_id = sign_push_id(secret, 12, 34)
    taken = []
    for letter in LETTERS:
        try:
            assert read_push_id(secret, push_id[:-1] + letter) == (12, 34)
        except Problem:
            continue
        taken.append(letter)
    assert taken == [push_id[-1]]


@given(secrets, secrets, chunks, positions)
def test_a_foreign_secret_is_refused(secret: bytes, foreign: bytes, chunk: int, position: int) -> None:
    """An id that another installation signed is refused."""
    if secret != foreign:
        with pytest.raises(Problem, match="not one this server gave out"):
            read_push_id(secret, sign_push_id(foreign, chunk, position))


@given(st.text(max_size=60))
def test_any_text_is_refused_as_a_problem(text: str) -> None:
    """A text that nobody signed is the caller's Problem, whatever it holds."""
    with pytest.raises(Problem):
        read_push_id(bytes(32), text)


@given(secrets, st.lists(st.tuples(chunks, positions), min_size=2, max_size=2, unique=True))
def test_ids_differ(secret: bytes, pair: list[tuple[int, int]]) -> None:
    """Two messages never share an id."""
    assert sign_push_id(secret, *pair[0]) != sign_push_id(secret, *pair[1])
