"""The parts that a text message is sent in, as GSM networks count them (3GPP TS 23.038 and 23.040)."""

from __future__ import annotations

import string
from typing import Literal

import msgspec

# The 7-bit default alphabet, and what an escape before the letter adds to it.
GSM_7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà" + string.ascii_letters + string.digits
)
ESCAPED = frozenset("\f^{}\\[~]|€")
ODD = 5  # letters outside of the alphabet that are named
# By alphabet: what fits into one part alone, and into each of several, whose header takes the rest.
ROOM = {"GSM-7": (160, 153), "UCS-2": (70, 67)}


class SmsParts(msgspec.Struct, frozen=True):
    """How a text is sent. left: letters that the last part still takes. each: of each of several parts. odd: the first
    letters that are not in GSM-7, which cost the text its room."""

    alphabet: Literal["GSM-7", "UCS-2"]
    count: int
    left: int
    each: int
    odd: str


def count_parts(text: str) -> SmsParts:
    """Return the parts of a text. Neither an escape and its letter nor the halves of one letter are ever parted."""
    odd = [letter for letter in dict.fromkeys(text) if letter not in GSM_7 and letter not in ESCAPED]
    if odd:
        costs = [2 if letter > "\uffff" else 1 for letter in text]
    else:
        costs = [2 if letter in ESCAPED else 1 for letter in text]
    alphabet: Literal["GSM-7", "UCS-2"] = "UCS-2" if odd else "GSM-7"
    alone, each = ROOM[alphabet]
    if sum(costs) <= alone:
        return SmsParts(alphabet, 1, alone - sum(costs), each, "".join(odd[:ODD]))
    count, left = 1, each
    for cost in costs:
        if cost > left:
            count, left = count + 1, each
        left -= cost
    return SmsParts(alphabet, count, left, each, "".join(odd[:ODD]))
