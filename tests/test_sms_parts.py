"""A text message is counted in the parts that networks send it in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.content.sms_parts import ESCAPED, GSM_7, ROOM, count_parts

LETTERS = st.one_of(st.sampled_from(sorted(GSM_7 | ESCAPED)), st.sampled_from("şЖ漢😀"))


@pytest.mark.parametrize(
    ("text", "alphabet", "count", "left", "odd"),
    [
        ("", "GSM-7", 1, 160, ""),
        ("a" * 160, "GSM-7", 1, 0, ""),
        ("a" * 161, "GSM-7", 2, 145, ""),
        ("€" * 80, "GSM-7", 1, 0, ""),
        ("€" * 81, "GSM-7", 2, 153 - 2 * 5, ""),  # an escape and its letter are not parted: 76 in the first
        ("Grüße an Ægir", "GSM-7", 1, 147, ""),
        ("ş" * 70, "UCS-2", 1, 0, "ş"),
        ("ş" * 71, "UCS-2", 2, 63, "ş"),
        ("😀" * 36, "UCS-2", 2, 67 - 2 * 3, "😀"),  # 33 in the first, not 33 and a half
        ("€şЖ漢字😀é…", "UCS-2", 1, 61, "şЖ漢字😀"),
    ],
    ids=lambda value: value[:4] if isinstance(value, str) else value,
)
def test_parts(text: str, alphabet: str, count: int, left: int, odd: str) -> None:
    found = count_parts(text)
    assert (found.alphabet, found.count, found.left, found.odd) == (alphabet, count, left, odd)


@given(st.text(LETTERS, max_size=400))
def test_no_part_is_fuller_than_it_may_be_nor_half_empty(text: str) -> None:
    found = count_parts(text)
    wide = ESCAPED if found.alphabet == "GSM-7" else frozenset("😀")
    units = sum(2 if letter in wide else 1 for letter in text)
    alone, each = ROOM[found.alphabet]
    if found.count == 1:
        assert units + found.left == alone
    else:
        lost = found.count * each - units - found.left
        assert (units > alone, 0 <= lost < found.count) == (True, True)
