"""Stage 3 of 7, content: a template and a profile become one vendor-neutral message. Pure."""

from __future__ import annotations

from typing import Any

from tocsin.content.content import Addressing, Content, Unrenderable
from tocsin.content.mail import read_mail
from tocsin.content.metering import share_work
from tocsin.content.push import PushForm, check_room, read_push
from tocsin.content.renderer import Renderer, compile_content
from tocsin.content.sms_webpush import NoticeForm, check_webpush_room, read_sms, read_webpush
from tocsin.content.template import try_out
from tocsin.content.tracked_html import MailLinks
from tocsin.errors import Problem

__all__ = ["Addressing", "Content", "MailLinks", "Renderer", "Unrenderable", "read_content"]


def read_content(raw: Any, channel: str, *, require_channel: bool = False, unsubscribe_link: bool = True) -> Content:
    """Return the `content` of a request, checked for its channel, its templates compiled and tried out. Raise Problem,
    with the documented code and sentence where there is one. require_channel: an Android block must name a notification
    channel (code 9). unsubscribe_link: a mail can have one."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise Problem("content must be an object (at $.content)")
    match channel:
        case "email":
            content = read_mail(raw, unsubscribe_link)
        case "sms":
            content = read_sms(raw)
        case "webpush":
            content = read_webpush(raw)
        case _:
            content = read_push(raw, require_channel)
    form = compile_content(content)
    if isinstance(form, PushForm):
        check_room(content, form)
    elif isinstance(form, NoticeForm) and channel == "webpush":
        check_webpush_room(content, form)
    with share_work():
        for template in form.templates():  # a mail's HTML and its text too, which are made from one: both are rendered
            try_out(template)
    return content
