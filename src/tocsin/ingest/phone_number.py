"""The short way to a phone number: most are E.164 already, and the library takes 250 µs to say so."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, region_code_for_country_code

LEAST, MOST = 7, 15  # digits of a number, its country code included
DIGITS = re.compile(rf"\+[1-9][0-9]{{{LEAST - 1},{MOST - 1}}}")
CODES = (1, 2, 3)  # digits of a country code; none begins with another one
NEVER = r"\z."  # in RE2; what matches nothing


def is_normal(text: str) -> bool:
    """Return True for a number that the library would call possible and leave as it is; False where it has to be asked:
    it may strip a national prefix, or refuse the length."""
    if not DIGITS.fullmatch(text):
        return False
    for digits in CODES:
        if known := _find_country(text[1 : digits + 1]):
            prefix, lengths = known
            rest = text[digits + 1 :]
            return rest[0] != "0" and len(rest) in lengths and not (prefix and prefix.match(rest))
    return False


def find_normal(array: Any) -> Any:
    """Return for each text of an Arrow array whether it `is_normal`."""
    import pyarrow.compute as pc

    starts = pc.unique(pc.utf8_slice_codeunits(array.drop_null(), 0, CODES[-1] + 1)).to_pylist()
    codes = {one[1 : digits + 1] for one in starts if one[:1] == "+" for digits in CODES}
    normal, prefixed = _write_patterns(frozenset(one for one in codes if one.isascii() and one.isdigit()))
    return pc.and_not(pc.match_substring_regex(array, normal), pc.match_substring_regex(array, prefixed))


@functools.lru_cache(maxsize=64)
def _write_patterns(codes: Collection[str]) -> tuple[str, str]:
    """Return patterns of RE2: of all numbers of these country codes by their lengths, and of those that begin with what
    may be a national prefix."""
    normal, prefixed = [], []
    for code in sorted(codes):
        prefix, lengths = _find_country(code) or (None, frozenset())
        fitting = sorted(one for one in lengths if LEAST <= len(code) + one <= MOST)
        if fitting:
            normal.append(rf"{code}[1-9](?:{'|'.join(f'[0-9]{{{one - 1}}}' for one in fitting)})")
        if prefix is not None:
            prefixed.append(rf"{code}(?:{prefix.pattern})")
    return rf"\A\+(?:{'|'.join(normal) or NEVER})\z", rf"\A\+(?:{'|'.join(prefixed) or NEVER})"


@functools.cache  # of at most a thousand codes
def _find_country(code: str) -> tuple[re.Pattern[str] | None, frozenset[int]] | None:
    """Return what a country's numbers may begin with inside of it, and how long they are; None for no country code."""
    country = int(code)
    if country not in COUNTRY_CODE_TO_REGION_CODE or code[0] == "0":
        return None
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country, region_code_for_country_code(country))
    if metadata is None or metadata.general_desc is None:
        return None, frozenset()
    prefix = metadata.national_prefix_for_parsing
    return re.compile(prefix) if prefix else None, frozenset(metadata.general_desc.possible_length)
