"""What a message says: a template and a profile become one vendor-neutral message. Pure."""

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
    """The `content` of a request. Raises Problem with the documented sentence where there is one."""
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
    Renderer(content)
    return content


class Renderer:
    """A content, compiled: `render` fills it for one recipient. Raises Problem for a template that is wrong."""

    def __init__(self, content: Content):
        self._form: MailForm | NoticeForm | PushForm
        if content.channel:
            self._form = NoticeForm(content)
        else:
            self._form = MailForm(content) if content.subject else PushForm(content)

    def render(self, platform: str, profile: Mapping[str, Any], envelope: Addressing) -> Message:
        """One message for one address. Raises Unrenderable when the template breaks a limit on this profile."""
        values = {"Profile": ProfileValues(profile)}
        try:
            if not isinstance(self._form, PushForm):
                return self._form.render(values, envelope)
            return self._form.render(platform, values, envelope)
        except Unrenderable:
            raise
        except Exception as error:  # limits, and errors of filters, which python-liquid lets through as they are
            raise Unrenderable(f"{type(error).__name__}: {error}"[:200]) from error
