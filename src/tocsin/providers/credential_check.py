"""Does the vendor take this credential? One question to it that reaches nobody, and its answer in words."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import NO_TLS, Receipt
from tocsin.providers.transport import Transport

CHECK_SECONDS = 15.0  # that a vendor has to answer
Verdict = Literal["accepted", "refused", "open"]


class CredentialCheck(msgspec.Struct, frozen=True):
    """What a vendor said. open: nothing about the credential. code, detail: the vendor's own words."""

    verdict: Verdict
    sentence: str
    code: str = ""
    detail: str = ""


_ACCEPTED = {
    "fcm": "Google takes this service account: a dry run to a made-up token was refused for the token alone.",
    "apns": "Apple takes this key for this topic: a made-up device token was refused for the token alone.",
    "wns": "Microsoft gave out a token for this app.",
    "smtp": "The relay let us in. Whether it takes mails from this sender shows with the first.",
    "vapid": "The key is well-formed. A push service can be asked only with a browser's subscription.",
}
# What to do, by the provider and the beginning of the vendor's code; the first that fits.
_HINTS: tuple[tuple[str, str, str], ...] = (
    ("fcm", "token invalid_grant", "Google does not know this key: it was deleted, or this machine's clock is wrong. "
     "Make a new key of the service account in Google's console."),
    ("fcm", "token", "Google gives this service account no token. Make a new key of it in Google's console."),
    ("fcm", "PERMISSION_DENIED", "Google knows the service account, which may not send in this project: give it the "
     "role Firebase Cloud Messaging API Admin, and switch that API on."),
    ("fcm", "", "Google refuses to send in this project: check project_id in the file, and that its Firebase Cloud "
     "Messaging API is on."),
    ("apns", "403 InvalidProviderToken", "Apple does not know this key under these ids. Most often the key id and the "
     "team id are swapped; else the key is revoked, or is another file's."),
    ("apns", "403 BadEnvironmentKeyIdInToken", "This key is for Apple's other environment: choose that one."),
    ("apns", "400 TopicDisallowed", "The team may not push to this topic: check the bundle id and the team id."),
    ("apns", "400 BadTopic", "Apple knows no such topic: it is the app's bundle id."),
    ("apns", "403 ExpiredProviderToken", "Apple finds our token too old: this machine's clock is wrong."),
    ("wns", "token invalid_client", "Microsoft refuses the secret: it may have expired, or be its id in place of its "
     "value."),
    ("wns", "token unauthorized_client", "Microsoft knows no such app in this tenant: check client id and tenant."),
    ("smtp", NO_TLS, "TLS with the relay failed: 465 wants tls, 587 starttls, and the certificate must be that of the "
     "host's name."),
    ("smtp", "535", "The relay refuses user name and password."),
    ("smtp", "534", "The relay wants another log-in; large providers want a password made for apps."),
    ("smtp", "530", "The relay wants a log-in: give a user name and a password."),
    ("smtp", "unsent", "The relay could not be reached, or fell silent: check host and port. 465 wants tls, 587 "
     "starttls."),
)  # fmt: skip
_REFUSED = "The vendor refuses this credential."
_OPEN = "The vendor said nothing about the credential; try again later."
_NEVER = "A receiver of webhooks cannot be asked without a message; send yourself a test."
_SILENT = "No answer came in {seconds:g} seconds; check that this server reaches the vendor, and try again."


async def check_credential(name: str, settings: str, now: float, seconds: float = CHECK_SECONDS) -> CredentialCheck:
    """Ask the vendor of a provider about its settings, which are JSON, over connections made for it. Raises
    Misconfigured for settings that cannot work."""
    cls = BY_NAME[name]
    try:
        typed = msgspec.json.decode(settings, type=cls.Settings)
    except msgspec.DecodeError:
        raise Misconfigured(f"The settings of {name} cannot be read: TOCSIN_SECRET_KEY has no key for them.") from None
    async with Transport() as transport:
        try:
            async with asyncio.timeout(seconds):
                came = await cls(typed, transport).check(now)
        except TimeoutError:
            return CredentialCheck("open", _SILENT.format(seconds=seconds), "timed out")
    return explain(name, came)


def explain(name: str, came: Receipt) -> CredentialCheck:
    """Return in words what a vendor's answer to `Provider.check` says. A token that nobody has is found wrong only
    after the credential was found right."""
    if came.outcome in (Outcome.ACCEPTED, Outcome.GONE):
        return CredentialCheck("accepted", _ACCEPTED[name], came.code, came.detail)
    hint = next((hint for one, start, hint in _HINTS if one == name and came.code.startswith(start)), "")
    if came.outcome is Outcome.DENIED or came.code == NO_TLS:
        return CredentialCheck("refused", hint or _REFUSED, came.code, came.detail)
    if came.code == "unsent" and name == "smtp":
        return CredentialCheck("open", hint, came.code, came.detail)
    return CredentialCheck("open", _OPEN if name in _ACCEPTED else _NEVER, came.code, came.detail)
