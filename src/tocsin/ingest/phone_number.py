"""The short way to a phone number: most are E.164 already, and the library takes 250 µs to say so."""

from __future__ import annotations

import functools
import re

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, region_code_for_country_code

DIGITS = re.compile(r"\+[1-9][0-9]{6,14}")


def is_normal(text: str) -> bool:
    """Return True for a number that the library would call possible and leave as it is; False where it has to be asked:
    it may strip a national prefix, or refuse the length."""
    if not DIGITS.fullmatch(text):
        return False
    for end in (2, 3, 4):
        if known := _find_country(text[1:end]):
            prefix, lengths = known
            rest = text[end:]
            return rest[0] != "0" and len(rest) in lengths and not (prefix and prefix.match(rest))
    return False


@functools.cache  # of at most a thousand codes
def _find_country(code: str) -> tuple[re.Pattern[str] | None, frozenset[int]] | None:
    """Return what a country's numbers may begin with inside of it, and how long they are; None for no country code."""
    country = int(code)
    if country not in COUNTRY_CODE_TO_REGION_CODE:
        return None
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country, region_code_for_country_code(country))
    if metadata is None or metadata.general_desc is None:
        return None, frozenset()
    prefix = metadata.national_prefix_for_parsing
    return re.compile(prefix) if prefix else None, frozenset(metadata.general_desc.possible_length)
