"""The envelope of a mail: the parameters and checks of MAIL, and the reply that a fault script asks for."""

from __future__ import annotations

from tocsin.sandbox.faults import Fault
from tocsin.sandbox.mail import MAIL_LIMIT, is_address

_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "AUTH"}
_ENHANCED = {421: "4.3.2", 451: "4.3.0", 452: "4.3.1", 550: "5.7.1", 552: "5.3.4", 554: "5.6.0"}


class MailEnvelope:
    """The envelope of one mail: its fault, the parameters of MAIL, and the accepted recipients."""

    def __init__(self, fault: Fault | None, parameters: dict[str, str]) -> None:
        self.fault = fault
        self.utf8 = "SMTPUTF8" in parameters
        self.recipients: list[str] = []


def sender_problem(address: str, parameters: dict[str, str]) -> str | None:
    """Return the reply that refuses a MAIL, None for one in order; an empty address is the null sender."""
    if address and not is_address(address):
        return "501 5.1.7 That is not an address"
    if not parameters.keys() <= _PARAMETERS or parameters.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
        return "555 5.5.4 A parameter of MAIL is not known"
    size = parameters.get("SIZE", "0")
    if not size.isdecimal():
        return "501 5.5.4 SIZE is a number"
    if int(size) > MAIL_LIMIT:
        return "552 5.3.4 The mail is too big"
    if not address.isascii() and "SMTPUTF8" not in parameters:
        return "553 5.6.7 The address needs SMTPUTF8"
    return None


def failure_reply(fault: Fault) -> str:
    """Return the reply of a `status` fault, with its own enhanced code or the one that belongs to the status."""
    status = fault.status or 451
    code = fault.code or ""
    if code[:2] == f"{status // 100}.":
        return f"{status} {code} Refused by a fault script"
    enhanced = _ENHANCED.get(status, f"{status // 100}.0.0")
    return f"{status} {enhanced} {code or 'Refused by a fault script'}"
