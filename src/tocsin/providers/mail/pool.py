"""A pool of SMTP sessions with one relay, on the event loop."""

from __future__ import annotations

import asyncio
import ssl
import time

from tocsin.errors import Misconfigured
from tocsin.providers.http.transfer import HandOver, MailTransfer, VendorAnswer, unnoted
from tocsin.providers.mail.session import Server, SessionRefused, SmtpSession
from tocsin.providers.mail.wire import ConnectionLost, TlsFailed

__all__ = ["Server", "SmtpPool"]

IDLE_SECONDS = 30.0  # a connection idle for longer is not used again: relays close them
MAILS = 100  # over one connection: Postfix closes after a hundred by default, others sooner


class SmtpPool:
    """Connections to one relay for one provider object. Never raises for an error of the network. mails: over one
    connection, at most. idle: seconds after which an unused connection is closed."""

    def __init__(
        self, server: Server, ca: str, connections: int, *, mails: int = MAILS, idle: float = IDLE_SECONDS
    ) -> None:
        self._server = server
        self._mails = mails
        self._idle_seconds = idle
        self._context = _trust(ca)
        self._gate = asyncio.Semaphore(connections)
        self._idle: list[SmtpSession] = []
        self._busy: set[SmtpSession] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._retired = False

    async def mail(self, envelope: MailTransfer, hand_over: HandOver = unnoted) -> VendorAnswer:
        """Send one mail to one mailbox, at most once. When the relay has closed an idle connection the mail is
        certainly unsent, and goes over a new one. hand_over: called before the end of the mail can leave."""
        async with self._gate:
            kept = self._take()
            if kept is not None:
                answer, again = await self._send(kept, envelope, hand_over)
                if not again:
                    return answer
            if self._closed:
                return VendorAnswer(failure="unsent", detail="the relay is closed")
            answer, _ = await self._send(SmtpSession(self._server, self._context), envelope, hand_over, fresh=True)
            return answer

    async def greet(self, seconds: float) -> VendorAnswer:
        """Open a connection, log in and leave. Return 250, or what the relay or the network had against it."""
        async with self._gate:
            session = SmtpSession(self._server, self._context)
            empty = MailTransfer(sender="", recipient="", body=b"", timeout=seconds)
            answer, _ = await self._send(session, empty, unnoted, fresh=True, mails=False)
            return answer

    async def _send(
        self,
        session: SmtpSession,
        envelope: MailTransfer,
        hand_over: HandOver,
        *,
        fresh: bool = False,
        mails: bool = True,
    ) -> tuple[VendorAnswer, bool]:
        """Return the answer, and whether a new connection may be tried: after 421, a refused session, or a connection
        that ended with the mail unsent, but not after a time-out. mails: False for a connection alone."""
        self._busy.add(session)
        keep = False
        try:
            async with asyncio.timeout(envelope.timeout):
                if fresh:
                    await session.open()
                answer = await session.mail(envelope, hand_over) if mails else VendorAnswer(status=250)
            keep = answer.status != 421
            return answer, not keep
        except SessionRefused as refusal:
            return refusal.answer, True
        except TimeoutError:
            return session.judge("timed out"), False
        except TlsFailed as failed:  # before any mail
            return VendorAnswer(failure="unsent", step="TLS", detail=str(failed)[:300]), True
        except (ConnectionLost, OSError, UnicodeError) as error:  # UnicodeError: a host that is no name of the DNS
            answer = session.judge(
                str(error) if isinstance(error, ConnectionLost) else f"{type(error).__name__}: {error}"
            )
            return answer, answer.failure == "unsent"
        finally:
            self._busy.discard(session)
            self._put_back(session, keep=keep)

    def _take(self) -> SmtpSession | None:
        """Return the connection used last, None when none is usable; so those not needed stay idle, and are closed."""
        while self._idle:
            session = self._idle.pop()
            if session.is_clean() and time.monotonic() - session.rested_at < self._idle_seconds:
                return session
            session.close()
        return None

    def _put_back(self, session: SmtpSession, *, keep: bool) -> None:
        """Keep a connection whose last mail was answered, else close it: after a time-out the late reply would be taken
        for the next mail's."""
        if not keep or self._closed or self._retired or session.carried >= self._mails or not session.is_clean():
            session.close()
            return
        session.rested_at = time.monotonic()
        self._idle.append(session)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_seconds, self._close_idle)

    def _close_idle(self) -> None:
        """Close connections that were not used for a while."""
        oldest = time.monotonic() - self._idle_seconds
        for session in [one for one in self._idle if one.rested_at <= oldest]:
            self._idle.remove(session)
            session.close()
        again = bool(self._idle)
        self._sweep = asyncio.get_running_loop().call_later(self._idle_seconds, self._close_idle) if again else None

    def retire(self) -> None:
        """Close what is idle, and every other connection after its mail. A later mail is sent, over a new one."""
        self._retired = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for session in self._idle:
            session.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close every connection; a mail in progress gets a failure."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for session in (*self._idle, *self._busy):
            session.close("the relay was closed")
        self._idle.clear()
        await asyncio.sleep(0)  # so that the sockets are closed when this returns


def _trust(ca: str) -> ssl.SSLContext:
    """Return the TLS context. ca: PEM text, empty for the machine's store. Raises Misconfigured."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except ssl.SSLError:
        raise Misconfigured("ca has to be a file of PEM certificates.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
