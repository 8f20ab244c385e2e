"""Sample users of several countries and languages, and their events; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

SEED = 1457
DAY = 86_400
DAYS = 60
KINDS = ("fcm", "fcm", "fcm", "apns", "apns", "wns")  # half of the devices are Android
TYPES = ("Platinum", "Gold", "Silver", "Silver")
PRODUCTS = {"Espresso machine": 249.0, "Running shoes": 89.9, "Desk lamp": 39.5, "Novel": 14.99, "Headphones": 129.0}

# country, language, time zone, start of a number and how many digits follow, first names
PLACES = (
    ("Germany", "de", "Europe/Berlin", "+4915", 9, ("Lena", "Jonas", "Mia", "Paul", "Jürgen")),
    ("France", "fr", "Europe/Paris", "+3361", 7, ("Chloé", "Louis", "Zoé", "Hugo", "Anaïs")),
    ("India", "hi", "Asia/Kolkata", "+9198", 8, ("Aarav", "Diya", "Vihaan", "Ananya", "Ishaan")),
    ("Brazil", "pt", "America/Sao_Paulo", "+5511", 9, ("João", "Maria", "Luísa", "Pedro", "Inês")),
    ("Japan", "ja", "Asia/Tokyo", "+8190", 8, ("陽菜", "蓮", "結衣", "悠真", "さくら")),
    ("United States", "en", "America/New_York", "+1212", 7, ("Emma", "Liam", "Olivia", "Noah", "Ava")),
)


def sample_people(count: int, wns_prefix: str, kinds: tuple[str, ...] = KINDS) -> Iterator[dict[str, Any]]:
    """Yield two upload records a user, profile and device. wns_prefix: the start of a Windows channel's URL."""
    generator = random.Random(SEED)  # noqa: S311 - the same people every time
    for number in range(count):
        country, language, zone, dial, digits, names = generator.choice(PLACES)
        identity, device = f"user-{number:05d}", f"device-{number:05d}"
        profile: dict[str, Any] = {
            "Name": generator.choice(names),
            "Email": f"{identity}@example.com",
            "Phone": f"{dial}{generator.randrange(2 * 10 ** (digits - 1), 10**digits)}",
            "Country": country,
            "language": language,
            "Tz": zone,
            "Customer Type": generator.choice(TYPES),
            "Score": generator.randrange(0, 500),
        }
        if generator.random() < 0.04:
            profile["MSG-push"] = False
        yield {"type": "profile", "identity": identity, "objectId": device, "profileData": profile}
        kind = generator.choice(kinds)
        yield {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": _token(kind, device, wns_prefix)}}


def sample_events(count: int, now: float) -> Iterator[dict[str, Any]]:
    """Yield events of these users in the DAYS days before `now` (epoch seconds), as rows of an events file."""
    generator = random.Random(SEED + 1)  # noqa: S311
    for number in range(count):
        identity = f"user-{number:05d}"
        for _ in range(generator.randrange(1, 5)):
            at = int(now - generator.random() * DAYS * DAY)
            yield {"identity": identity, "ts": at, "evtName": "App Launched", "CT Source": "Mobile"}
            if generator.random() < 0.6:
                product, price = generator.choice(list(PRODUCTS.items()))
                viewed = {"identity": identity, "ts": at + 60, "evtName": "Product viewed", "Product": product}
                yield viewed | {"Price": price}
                if generator.random() < 0.25:
                    yield {"identity": identity, "ts": at + 300, "evtName": "Charged", "Amount": price}


def _token(kind: str, device: str, wns_prefix: str) -> str:
    match kind:
        case "apns":
            return device.encode().hex().rjust(64, "0")
        case "wns":
            return f"{wns_prefix}{device}"
        case _:
            return f"{device}:sample-registration-token"
