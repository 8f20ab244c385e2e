"""A content with its templates compiled, kept for as long as there is room: for delivery, which renders it for many."""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

from tocsin.content.content import Addressing, Content, Unrenderable
from tocsin.content.mail import MailForm
from tocsin.content.metering import share_work
from tocsin.content.push import PushForm
from tocsin.content.sms_webpush import NoticeForm
from tocsin.content.template import CompiledTemplate, ProfileValues, explain
from tocsin.errors import forget_frames
from tocsin.providers.contract import Message

QUOTED = re.compile(r"(?<!\w)['\"].*", re.DOTALL)  # where an error begins to quote, to its end: a value may have quotes
COMPILED_BYTES = 32 * 1024 * 1024  # of all compiled contents of a process


class Form(Protocol):
    """A content, compiled."""

    def templates(self) -> Iterator[CompiledTemplate]:
        """Return its templates, with their places."""

    def render(self, platform: str, values: Mapping[str, Any], envelope: Addressing) -> Message:
        """Return the message for one address."""


def compile_content(content: Content, *, tracked: bool = False) -> Form:
    """Return a content's form. tracked: a mail's links may be followed; where an error stands is then not to be had
    from it. Raise Problem for a wrong template."""
    if content.channel:
        return NoticeForm(content)
    return MailForm(content, tracked=tracked) if content.subject else PushForm(content)


class CompiledContents:
    """The compiled contents that were used last, as many as `limit` bytes hold. How many bytes one takes is estimated
    from its templates."""

    def __init__(self, limit: int):
        self._limit = limit
        self._forms: OrderedDict[int, tuple[Form, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def find(self, key: int) -> Form | None:
        """Return a form that is still kept."""
        if (kept := self._forms.get(key)) is None:
            return None
        with suppress(KeyError):  # another thread may have forgotten it just now
            self._forms.move_to_end(key)
        return kept[0]

    def keep(self, key: int, form: Form) -> None:
        """Keep a form, and forget those that were not used for longest; one that is too large alone is not kept."""
        size = sum(one.memory for one in form.templates())
        if size > self._limit:
            return
        with self._lock:
            self.bytes += size - self._forms.pop(key, (form, 0))[1]
            self._forms[key] = form, size
            while self.bytes > self._limit:
                _, (_, freed) = self._forms.popitem(last=False)
                self.bytes -= freed


_COMPILED = CompiledContents(COMPILED_BYTES)
_numbers = itertools.count()


class Renderer:
    """Makes messages of a content. Its templates are compiled for the first message, and again when others needed the
    room in between. tracked: the links of some of its mails are followed."""

    def __init__(self, content: Content, compiled: CompiledContents = _COMPILED, *, tracked: bool = False):
        self._content = content
        self._tracked = tracked
        self._compiled = compiled
        self._key = next(_numbers)

    def render(self, platform: str, profile: Mapping[str, Any], envelope: Addressing) -> Message:
        """Return the message for one address. Raise Unrenderable when a template fails or breaks a limit on this
        profile."""
        try:
            form = self._compiled.find(self._key)
            if form is None:
                form = compile_content(self._content, tracked=self._tracked)
                self._compiled.keep(self._key, form)
            with share_work():
                return form.render(platform, {"Profile": ProfileValues(profile)}, envelope)
        except Unrenderable:
            raise
        except Exception as error:  # a limit, or an error inside a filter, which python-liquid does not wrap
            # Kept as the outcome's code, which stays when somebody is deleted: no value of theirs may be in it.
            raise Unrenderable(QUOTED.sub("…", explain(error))[:200]) from forget_frames(error)
