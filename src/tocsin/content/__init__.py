"""Stage 3 of 7, content: a template and a profile become one vendor-neutral message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tocsin.content.content import Addressing, Content, Unrenderable
from tocsin.content.mail import MailForm, read_mail
from tocsin.content.push import PushForm, read_push
from tocsin.content.sms_webpush import NoticeForm, read_sms, read_webpush
from tocsin.content.template import ProfileValues
from tocsin.errors import Problem
from tocsin.providers.contract import Message

__all__ = ["Addressing", "Content", "Renderer", "Unrenderable", "read_content"]


def read_content(raw: Any, channel: str, *, require_channel: bool = False) -> Content:
    """Return the `content` of a request, checked for its channel. Raise Problem, with the documented code and sentence
    where there is one. require_channel: an Android block must name a notification channel (code 9)."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise Problem("content must be an object (at $.content)")
    match channel:
        case "email":
            content = read_mail(raw)
        case "sms":
            content = read_sms(raw)
        case "webpush":
            content = read_webpush(raw)
        case _:
            content = read_push(raw, require_channel)
    Renderer(content)  # compiles the templates: one that is wrong is the caller's to mend
    return content


class Renderer:
    """A content with its templates compiled. Raises Problem for a wrong template."""

    def __init__(self, content: Content):
        self._form: MailForm | NoticeForm | PushForm
        if content.channel:
            self._form = NoticeForm(content)
        else:
            self._form = MailForm(content) if content.subject else PushForm(content)

    def render(self, platform: str, profile: Mapping[str, Any], envelope: Addressing) -> Message:
        """Return the message for one address. Raise Unrenderable when a template fails or breaks a limit on this
        profile."""
        values = {"Profile": ProfileValues(profile)}
        try:
            if not isinstance(self._form, PushForm):
                return self._form.render(values, envelope)
            return self._form.render(platform, values, envelope)
        except Unrenderable:
            raise
        except Exception as error:  # a limit, or an error inside a filter, which python-liquid does not wrap
            raise Unrenderable(f"{type(error).__name__}: {error}"[:200]) from error
