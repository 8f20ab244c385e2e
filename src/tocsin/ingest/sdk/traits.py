"""What an SDK says of the app and the device (`af`) → properties that a `where` asks for. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

# `af` → the property of the profile: `app_fields` and `technographics` of a `where`.
NAMES = {
    "Version": "App Version",
    "Build": "App Build",
    "OS Version": "OS Version",
    "SDK Version": "SDK Version",
    "Make": "Make",
    "Model": "Model",
    "Carrier": "Carrier",
    "OS": "OS",
    "locale": "Locale",
    "Latitude": "Latitude",
    "Longitude": "Longitude",
    "lib": "Library",
}
TEXT_LENGTH = 120
OFFSET = re.compile(r"GMT([+-][0-9]{2})([0-9]{2})")  # how the Web SDK spells a time zone
# Names of ISO 3166's table that nobody would ask for.
COUNTRIES = {"GB": "United Kingdom", "KR": "South Korea", "KP": "North Korea", "VG": "British Virgin Islands"}
# In a browser's User-Agent, what comes first counts: Edge and Opera call themselves Chrome, and Chrome Safari.
BROWSERS = (("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
SYSTEMS = (
    *(("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iOS"), ("Windows", "Windows"), ("Mac OS", "macOS")),
    *(("CrOS", "ChromeOS"), ("Linux", "Linux")),
)


def read_traits(af: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that `af` gives a profile."""
    traits = {name: af[key] for key, name in NAMES.items() if _is_plain(af.get(key))}
    if country := find_country(af.get("cc")):
        traits["Country"] = country
    return traits


def read_mobile_traits(af: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a phone or tablet."""
    model = str(af.get("Model", ""))
    return {**read_traits(af), "Device": "Tablet" if model.startswith("iPad") else "Mobile"}


def read_browser_traits(af: Mapping[str, Any], user_agent: str) -> dict[str, Any]:
    """Return the properties of a browser; its User-Agent says what it is."""
    traits = read_traits(af)
    for name, words in (("Browser", BROWSERS), ("OS", SYSTEMS)):
        if found := next((value for word, value in words if word in user_agent), ""):
            traits[name] = found
    small = "Tablet" if "iPad" in user_agent else "Mobile" if "Mobi" in user_agent else "Desktop"
    return {**traits, "Device": small}


def read_marks(af: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the properties that CleverTap gives every event of an app."""
    marks = {"CT Source": source}
    for key, name in (("Version", "CT App Version"), ("OS Version", "CT OS Version")):
        if _is_plain(af.get(key)):
            marks[name] = af[key]
    return marks


def read_zone(value: Any) -> str:
    """Return the time zone of an SDK's `tz` as a profile names it; "" for none."""
    if not isinstance(value, str) or not 0 < len(value) < 64:
        return ""
    found = OFFSET.fullmatch(value)
    return f"{found[1]}:{found[2]}" if found else value


def find_country(code: Any) -> str:
    """Return the English name of a country by its two letters; "" for what is none."""
    return _countries().get(code.upper(), "") if isinstance(code, str) and len(code) == 2 else ""


@functools.cache
def _countries() -> dict[str, str]:
    text = files("tzdata").joinpath("zoneinfo", "iso3166.tab").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return dict(rows) | COUNTRIES


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= TEXT_LENGTH
    return isinstance(value, int | float) and not isinstance(value, bool)
