"""LZ-String's `compressToBase64` in its plainest form: the Web SDK's own encoder is tried in a browser."""

from __future__ import annotations

import base64


def pack(text: str) -> str:
    """The text as the Web SDK packs it."""
    bits: list[int] = []
    codes: dict[str, int] = {}
    fresh: set[str] = set()
    room, width, size = 2, 2, 3

    def put(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in range(count))

    def say(phrase: str) -> None:
        nonlocal room, width
        if phrase in fresh:
            wide = ord(phrase) > 255
            put(int(wide), width)
            put(ord(phrase), 16 if wide else 8)
            fresh.discard(phrase)
            step()
        else:
            put(codes[phrase], width)
        step()

    def step() -> None:
        nonlocal room, width
        room -= 1
        if not room:
            room, width = 1 << width, width + 1

    units = text.encode("utf-16-le", "surrogatepass")
    phrase = ""
    for place in range(0, len(units), 2):
        letter = chr(int.from_bytes(units[place : place + 2], "little"))
        if letter not in codes:
            codes[letter] = size
            size += 1
            fresh.add(letter)
        if phrase + letter in codes:
            phrase += letter
            continue
        say(phrase)
        codes[phrase + letter] = size
        size += 1
        phrase = letter
    if phrase:
        say(phrase)
    put(2, width)
    bits.extend([0] * (-len(bits) % 8 or 8))
    raw = bytes(
        sum(bit << 7 - place for place, bit in enumerate(bits[start : start + 8])) for start in range(0, len(bits), 8)
    )
    return base64.b64encode(raw).decode()
