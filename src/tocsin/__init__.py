"""Tocsin: notification campaigns a company runs itself, over CleverTap's API."""

from __future__ import annotations

import os
import zoneinfo
from collections.abc import Sequence
from pathlib import Path

import tzdata


def choose_zones(folders: Sequence[str]) -> Sequence[str]:
    """Return where time zones are read: the system's folders, or none where the `tzdata` package, which is then read,
    is newer. Countries change their laws at short notice, and many a system is never told."""
    for folder in map(Path, folders):
        try:
            with (folder / "tzdata.zi").open() as file:
                version = file.readline().removeprefix("# version ").strip()  # such as 2026c
        except OSError:
            continue
        return folders if version > tzdata.IANA_VERSION else ()
    return ()


if "PYTHONTZPATH" not in os.environ:  # before anybody has a zone: Python keeps each for ever
    zoneinfo.reset_tzpath(choose_zones(zoneinfo.TZPATH))
