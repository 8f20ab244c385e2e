"""Stage 5 of 7, providers: a message becomes a receipt."""

from __future__ import annotations

from tocsin.providers.apns import Apns
from tocsin.providers.contract import Provider
from tocsin.providers.fcm import Fcm
from tocsin.providers.smtp import Smtp
from tocsin.providers.vapid import Vapid
from tocsin.providers.webhook import Sms, Webpush
from tocsin.providers.wns import Wns

BY_NAME: dict[str, type[Provider]] = {
    "fcm": Fcm,
    "apns": Apns,
    "wns": Wns,
    "smtp": Smtp,
    "sms": Sms,
    "webpush": Webpush,
    "vapid": Vapid,
}
