"""One record of an upload: its fields checked, or rejected with the documented code and sentence.

Codes and sentences are those of CleverTap's registry where a recorded answer shows them (509, 513, 515 to 520, 525);
where only the meaning is known (512, 514, 522 to 526, 528, 530 to 535) the sentence is ours. Records are
counted from 1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec
import phonenumbers
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from tocsin.channels import DEVICE_KINDS
from tocsin.ingest.flaw import LEVELS, find_flaw
from tocsin.ingest.phone_number import is_normal
from tocsin.ingest.push_service import encode_subscription, find_endpoint, is_push_service
from tocsin.ingest.timestamp import read_timestamp
from tocsin.store.props import fold

IdentityKind = Literal["identity", "objectId", "FBID", "GPID"]
IDENTITY_KINDS: tuple[str, ...] = get_args(IdentityKind)
# Of the kinds, as they are met: CleverTap's SDKs write «Identity».
SPELLINGS = {
    spelling: kind
    for kind in IDENTITY_KINDS
    for spelling in (kind, kind.lower(), kind.upper(), kind.capitalize(), kind[0].upper() + kind[1:])
}
TOKEN_TYPES = {name: one.kind for one in DEVICE_KINDS.values() for name in one.types}
# Names that only the system may use (CTValidationConfig of CleverTap's iOS SDK).
RESTRICTED_EVENTS = frozenset(
    (
        *("Stayed", "Notification Clicked", "Notification Viewed", "UTM Visited", "Notification Sent", "App Launched"),
        *("App Uninstalled", "Geocluster Entered", "Geocluster Exited", "wzrk_fetch", "wzrk_d", "SCCampaignOptOut"),
    )
)
OPERATIONS = frozenset(("$add", "$remove", "$set", "$incr", "$decr", "$delete"))

KEY_BYTES = 120
VALUE_BYTES = 2048
PROPERTIES = 256
LIST_LENGTH = 100
PROFILE_BYTES = 512 * 1024  # of one person's profile, as the ledger stores it
PROFILES_BYTES = 64 * 1024 * 1024  # of all profiles that one upload changes
NESTING = 8
IDENTITY_BYTES = 1024
IDENTITIES = 1000  # of one person, devices and addresses included
TOKEN_BYTES = 2048
INTEGERS = 2**63  # both stores hold integers below this
EXACT = 2**53  # from here on a float does not tell neighbouring integers apart
# Properties with a meaning hold one value: a list of addresses, or a sum of consents, would have none.
RESERVED = frozenset(
    (
        *("Name", "Email", "Phone", "Gender", "Employed", "Education", "Married", "DOB", "Age", "Tz", "Photo"),
        *("MSG-email", "MSG-push", "MSG-push-all", "MSG-sms", "MSG-whatsapp", "MSG-dndPhone"),
        "MSG-email-tracking",
    )
)
# Subscription groups that a person leaves, and comes back to; where a profile keeps those that were left.
LEFT, BACK = "category-unsubscribe", "category-resubscribe"
# Properties with a choice of values → those values, the code, the sentence, other words for them. RudderStack's own
# words for Gender; whether the real service takes booleans is not known, and what they mean is.
CHOICES: dict[str, tuple[tuple[str, ...], int, str, dict[Any, str]]] = {
    "Gender": (("M", "F"), 514, "Gender needs to be M/F.", {"male": "M", "female": "F"}),
    "Employed": (("Y", "N"), 517, "Employed needs to be Y/N.", {True: "Y", False: "N"}),
    "Education": (("School", "College", "Graduate"), 518, "Education needs to be School/College/Graduate..", {}),
    "Married": (("Y", "N"), 519, "Married needs to be Y/N.", {True: "Y", False: "N"}),
}
# What may be there and say nothing: an empty text where a checked value belongs, for forms send what is left empty.
SKIPPED = frozenset(("Email", "Phone", *CHOICES, "Age", LEFT, BACK))
# By the type of a record: the code and the start of the sentence for what no store keeps.
FLAWED = {"event": (512, "Event data is incorrect."), "token": (535, "Token data is incorrect.")}
# An address that is right beyond doubt, as most are: no need to take it apart. The domain is its one group.
SIMPLE_ADDRESS = r"[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+)*@((?:[A-Za-z0-9]{1,30}(?:-[A-Za-z0-9]{1,30})?\.)+[A-Za-z]{2,30})"
LOCAL_LETTERS, DOMAIN_LETTERS = 64, (4, 180)  # of such an address: the most, and the least and the most
PLAIN_ADDRESS = re.compile(
    rf"(?=[^@]{{1,{LOCAL_LETTERS}}}@.{{{DOMAIN_LETTERS[0]},{DOMAIN_LETTERS[1]}}}\Z){SIMPLE_ADDRESS}"
)
SPECIAL_DOMAINS = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES)
PHONE_START = re.compile(r"^\+?\d")


class Rejected(Exception):  # noqa: N818 - one record's answer, not a failure of ours
    """A record is wrong and is skipped. error: the sentence up to «Skipped record number»."""

    def __init__(self, code: int, error: str):
        super().__init__(error)
        self.code = code
        self.error = error


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A valid record. keys: its identities by kind, never empty. at: epoch seconds."""

    keys: dict[str, str]
    at: int


class ProfileRecord(Record, frozen=True, kw_only=True):
    """aliases: what `profileData` calls the person by, where the record itself has another name of that kind."""

    changes: dict[str, Any]  # a value, or one operation object, by property
    aliases: dict[str, str] = {}
    email: str = ""  # normalized, lower case, where the changes set one
    phone: str = ""  # E.164


class EventRecord(Record, frozen=True, kw_only=True):
    name: str
    props: dict[str, Any]


class TokenRecord(Record, frozen=True, kw_only=True):
    kind: str
    token: str


def drop_increments(record: Record) -> Record:
    """Return the record without `$incr` and `$decr`, which would count twice when it is applied again."""
    if not isinstance(record, ProfileRecord):
        return record
    increments = {
        key for key, value in record.changes.items() if isinstance(value, dict) and value.keys() & {"$incr", "$decr"}
    }
    return msgspec.structs.replace(record, changes={k: v for k, v in record.changes.items() if k not in increments})


def read_record(
    raw: Any, now: float, *, system: bool = False, place: str = "$"
) -> ProfileRecord | EventRecord | TokenRecord:
    """Return the record of one element of `d`. Raise Rejected when it is wrong. system: RESTRICTED_EVENTS are allowed,
    for imports of history and for servers whose operator permits them. place: where the record stands in the request.
    """
    if not isinstance(raw, dict):
        raise Rejected(524, "A record must be an object.")
    kind = raw.get("type")
    if flaw := find_flaw(raw, LEVELS - 2):  # the request and its `d` are two levels
        code, start = FLAWED.get(kind if isinstance(kind, str) else "", (524, "Profile data is incorrect."))
        raise Rejected(code, f"{start} {flaw[0][0].upper()}{flaw[0][1:]} (at {place}{flaw[1]}).")
    match kind:
        case "profile":
            return _read_profile(raw, now)
        case "event":
            return _read_event(raw, now, system)
        case "token":
            return _read_token(raw, now)
        case _:
            raise Rejected(524, "Record is neither event nor profile nor token: type must say which.")


def _read_profile(raw: Mapping[str, Any], now: float) -> ProfileRecord:
    at = _read_ts(raw, now)
    data = _read_object(raw.get("profileData"))
    if data is None:
        raise Rejected(524, "Profile data is incorrect. profileData must be an object.")
    changes = {key: value for key, value in data.items() if value is not None}
    for key in changes.keys() & SKIPPED:
        if _is_blank(key, changes[key]):
            del changes[key]
    named, inner = _find_keys(raw), _find_inner_keys(changes)
    keys = _require_keys({**inner, **named})
    aliases = {kind: value for kind, value in inner.items() if kind != "objectId" and keys[kind] != value}
    email, phone = _check_reserved(changes)
    if len(changes) > PROPERTIES:
        raise Rejected(522, f"Profile data is incorrect. At most {PROPERTIES} properties are allowed.")
    for key, value in changes.items():
        _check_property(key, value, "Profile data is incorrect.", 524, operations=True)
    for key, operation in ((BACK, "$remove"), (LEFT, "$add")):  # who says both of a group has left it
        if (value := changes.pop(key, None)) is not None:
            changes[key] = value if value == {"$delete": 1} else {operation: _read_groups(key, value)}
    return ProfileRecord(keys=keys, at=at, changes=changes, aliases=aliases, email=email, phone=phone)


def _read_groups(key: str, value: Any) -> list[str]:
    """Return the names of subscription groups that a profile leaves or comes back to, each once."""
    names = value.get("email") if isinstance(value, dict) and value.keys() <= {"email"} else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(
        isinstance(one, str) and 0 < len(one.strip().encode()) <= KEY_BYTES for one in names
    ):
        raise Rejected(
            524,
            f'Profile data is incorrect. {key} must be {{"email": ["a group", …]}}: groups of e-mail, as texts of at '
            f"most {KEY_BYTES} bytes.",
        )
    return list({fold(one.strip()): one.strip() for one in names}.values())


def _is_blank(key: str, value: Any) -> bool:
    """Return whether a property is there and says nothing."""
    return not value if key in (LEFT, BACK) else isinstance(value, str) and not value.strip()


def _read_object(value: Any) -> dict[str, Any] | None:
    """Return the object at a place that may be empty; PHP writes an empty one as a list. None for anything else."""
    if value is None or value == []:
        return {}
    return value if isinstance(value, dict) else None


def _read_event(raw: Mapping[str, Any], now: float, system: bool) -> EventRecord:
    at, keys = _read_ts(raw, now), _require_keys(_find_keys(raw))
    name = raw.get("evtName")
    if not isinstance(name, str) or not name.strip():
        raise Rejected(509, "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory.")
    if len(name.encode()) > KEY_BYTES * 4:
        raise Rejected(512, f"Event Name is incorrect. It is longer than {KEY_BYTES * 4} bytes.")
    if name in RESTRICTED_EVENTS and not system:
        raise Rejected(513, "Event Name is incorrect. ErrorCode: 513 - Trying to raise a restricted system event.")
    data = _read_object(raw.get("evtData"))
    if data is None:
        raise Rejected(512, "Event data is incorrect. evtData must be an object.")
    if len(data) > PROPERTIES:
        raise Rejected(522, f"Event data is incorrect. At most {PROPERTIES} properties are allowed.")
    for key, value in data.items():
        _check_property(key, value, "Event data is incorrect.", 512, operations=False)
    return EventRecord(keys=keys, at=at, name=name, props={k: v for k, v in data.items() if v is not None})


def _read_token(raw: Mapping[str, Any], now: float) -> TokenRecord:
    object_id, data = raw.get("objectId"), raw.get("tokenData")
    if object_id is None:
        object_id = _find_keys(raw).get("objectId")
    if not isinstance(object_id, str) or not 0 < len(object_id.encode()) <= 256:
        raise Rejected(530, "Token data is incorrect. objectId is not valid.")
    if not isinstance(data, dict):
        raise Rejected(531, "Token data is incorrect. tokenData must be an object.")
    token, kind = data.get("id"), data.get("type")
    if token is None or token == "":
        raise Rejected(532, "Token data is incorrect. id is absent.")
    if kind is None or kind == "":
        raise Rejected(533, "Token data is incorrect. type is absent.")
    kind = kind.lower() if isinstance(kind, str) else ""
    if kind not in TOKEN_TYPES:
        known = ", ".join(sorted(TOKEN_TYPES))
        raise Rejected(534, f"Token data is incorrect. type is not valid for this objectId; known are {known}.")
    if not isinstance(token, str) or len(token.encode()) > TOKEN_BYTES or any(c.isspace() for c in token):
        raise Rejected(535, "Token data is incorrect. id is not a valid token.")
    if TOKEN_TYPES[kind] == "webpush":
        endpoint = find_endpoint(token)
        if not is_push_service(endpoint):
            raise Rejected(535, "Token data is incorrect. id is not the https URL of a browser's push service.")
        token = encode_subscription(endpoint, data.get("keys"))
        if not token or len(token) > TOKEN_BYTES:
            raise Rejected(535, "Token data is incorrect. keys must be an object with the texts p256dh and auth.")
    return TokenRecord(keys={"objectId": object_id}, at=_read_ts(raw, now), kind=TOKEN_TYPES[kind], token=token)


def _read_ts(raw: Mapping[str, Any], now: float) -> int:
    ts = raw.get("ts")
    if _is_empty(ts):
        return int(now)
    at = read_timestamp(ts)
    if at is None:
        zone = ", or an ISO 8601 time with its zone" if isinstance(ts, str) else ""
        raise Rejected(525, f"Timestamp should be present in the Unix Epoch format{zone}.")
    return at


def _find_keys(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the identities that stand in a record itself, by kind. Raise Rejected for one that is none; an empty one
    is not there."""
    keys: dict[str, str] = {}
    for name in [one for one in raw if one in SPELLINGS]:
        kind, value = SPELLINGS[name], raw[name]
        if _is_empty(value) or (name != kind and kind in raw):
            continue
        text = _read_identity(value)
        if not text:
            raise Rejected(526 if kind == "objectId" else 523, f"{kind} is not valid.")
        keys[kind] = text
    return keys


def _find_inner_keys(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the identities that stand among the properties of a profile: RudderStack and CleverTap's own uploader
    write them there. They stay properties as well; what is no identity is a property alone."""
    keys: dict[str, str] = {}
    for name in [one for one in data if one in SPELLINGS]:
        kind = SPELLINGS[name]
        if (name == kind or kind not in data) and (text := _read_identity(data[name])):
            keys[kind] = text
    return keys


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _read_identity(value: Any) -> str:
    """Return an identity as text; "" when it is none. Ids from a database arrive as numbers, from a data frame as
    whole floats."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value.strip() and len(value.encode()) <= IDENTITY_BYTES else ""


def _require_keys(keys: dict[str, str]) -> dict[str, str]:
    if not keys:
        raise Rejected(523, "Identity is missing: one of identity, objectId, FBID, GPID is mandatory.")
    return keys


def _check_reserved(data: dict[str, Any]) -> tuple[str, str]:
    """Check the properties with a meaning, in the order of CleverTap's recorded answers. Normalize them in `data`;
    return (email, phone), "" where there is none."""
    email = phone = ""
    if "Email" in data and not is_operation(data["Email"]):
        email = read_email(data["Email"])
        if not email:
            raise Rejected(515, "Profile data is incorrect. Email is not valid.")
        data["Email"] = _strip(data["Email"])
    if "Phone" in data and not is_operation(data["Phone"]):
        phone = read_phone(data["Phone"])
        if not phone:
            raise Rejected(516, "Profile data is incorrect. Phone number is not valid.")
        data["Phone"] = phone
    for field, (allowed, code, sentence, words) in CHOICES.items():
        if field in data and not is_operation(data[field]):
            data[field] = _read_choice(data[field], allowed, words)
            if not data[field]:
                raise Rejected(code, f"Profile data is incorrect. {sentence}")
    if "Age" in data and not is_operation(data["Age"]):
        data["Age"] = _read_age(data["Age"])
    return email, phone


def _read_choice(value: Any, allowed: tuple[str, ...], words: Mapping[Any, str]) -> str:
    """Return one of the allowed values, however it is spelled; "" when the value means none of them."""
    if isinstance(value, bool):
        return words.get(value, "")
    if not isinstance(value, str):
        return ""
    word = value.strip().lower()
    return next((one for one in allowed if one.lower() == word), words.get(word, ""))


def _strip(value: str) -> str:
    """Return a text without the spaces and marks around it that come along when an address is copied."""
    return value.strip().strip("\u200b\u2060\ufeff").strip()


def read_email(value: Any) -> str:
    """Return an e-mail address normalized and in lower case; "" when the value is none."""
    return _normalize_email(value) if isinstance(value, str) and len(value) <= 254 else ""


@functools.lru_cache(maxsize=50_000)  # 100 µs each, and an address is read when uploaded, copied and sent to
def _normalize_email(value: str) -> str:
    value = _strip(value)
    if (found := PLAIN_ADDRESS.fullmatch(value)) and not f".{found[1]}".lower().endswith(SPECIAL_DOMAINS):
        return value.lower()
    try:
        return validate_email(value, check_deliverability=False, test_environment=True).normalized.lower()
    except EmailNotValidError:
        return ""


def read_phone(value: Any) -> str:
    """Return a phone number with its country code as E.164; "" when the value is none."""
    text = f"+{value}" if isinstance(value, int) and not isinstance(value, bool) else value
    return _normalize_phone(text) if isinstance(text, str) and len(text) <= 60 else ""


@functools.lru_cache(maxsize=50_000)  # 250 µs each, and a number is read as often as an address
def _normalize_phone(text: str) -> str:
    text = _strip(text)
    if is_normal(text):
        return text
    if not PHONE_START.match(text) or len(text) > 40:
        return ""
    try:
        number = phonenumbers.parse(text if text.startswith("+") else f"+{text}")
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_possible_number(number):
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _read_age(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 150:
        raise Rejected(520, "Profile data is incorrect. Age is invalid.")
    return value


def is_operation(value: Any) -> bool:
    """Return whether a property's value is a change of what is there, such as `{"$add": […]}`."""
    return isinstance(value, dict) and any(key.startswith("$") for key in value)


def _check_property(key: str, value: Any, start: str, code: int, *, operations: bool) -> None:
    if not key or len(key.encode()) > KEY_BYTES:
        raise Rejected(code, f"{start} A property name is empty or longer than {KEY_BYTES} bytes.")
    if operations and is_operation(value):
        _check_operation(key, value, start, code)
        return
    if not _fits(value, NESTING):
        raise Rejected(
            code,
            f"{start} {key} is too large: at most {VALUE_BYTES} bytes a text, {LIST_LENGTH} values a list, "
            f"{NESTING} levels, integers of 64 bits.",
        )


def _check_operation(key: str, value: Mapping[str, Any], start: str, code: int) -> None:
    if len(value) != 1 or next(iter(value)) not in OPERATIONS:
        raise Rejected(code, f"{start} {key} must hold one of {', '.join(sorted(OPERATIONS))}.")
    operation, operand = next(iter(value.items()))
    if key in RESERVED and operation != "$delete":
        raise Rejected(code, f"{start} {key} holds one value: send it plain, or $delete it.")
    if operation in ("$incr", "$decr"):
        if isinstance(operand, bool) or not isinstance(operand, int | float) or not _fits(operand, 1):
            raise Rejected(code, f"{start} {operation} of {key} needs a number.")
    elif operation != "$delete":
        values = operand if isinstance(operand, list) else [operand]
        if len(values) > LIST_LENGTH or not all(isinstance(v, str | int | float) and _fits(v, 1) for v in values):
            raise Rejected(code, f"{start} {operation} of {key} needs at most {LIST_LENGTH} texts or numbers.")


def _fits(value: Any, levels: int) -> bool:
    if isinstance(value, str):
        return len(value) * 4 <= VALUE_BYTES or len(value.encode()) <= VALUE_BYTES
    if isinstance(value, dict):
        return (
            levels > 0
            and len(value) <= PROPERTIES
            and all(0 < len(k.encode()) <= KEY_BYTES and _fits(v, levels - 1) for k, v in value.items())
        )
    if isinstance(value, list):
        return levels > 0 and len(value) <= LIST_LENGTH and all(_fits(v, levels - 1) for v in value)
    return not isinstance(value, int) or -INTEGERS <= value < INTEGERS
