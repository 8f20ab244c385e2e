"""Mail to one relay over a few kept connections, on the event loop."""

from __future__ import annotations

import asyncio
import ssl
import time

from tocsin.errors import Misconfigured
from tocsin.providers.http.transfer import MailTransfer, VendorAnswer
from tocsin.providers.mail.session import Refusal, Server, SmtpSession
from tocsin.providers.mail.wire import ConnectionLost

__all__ = ["Server", "SmtpPool"]

IDLE_SECONDS = 30.0  # a kept connection older than this is not used again: relays hang up on idle clients
MAILS = 100  # over one connection: Postfix closes after a hundred by default, others sooner


class SmtpPool:
    """Connections to one relay for one provider object. Never raises for what happens on the wire."""

    def __init__(self, server: Server, ca: str, connections: int) -> None:
        self._server = server
        self._context = _trust(ca)
        self._gate = asyncio.Semaphore(connections)
        self._idle: list[SmtpSession] = []
        self._busy: set[SmtpSession] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def mail(self, envelope: MailTransfer) -> VendorAnswer:
        """One mail to one mailbox, at most once. A kept connection that the relay has left is replaced: the mail was
        certainly not taken, and a new connection is all that many relays want after a while."""
        async with self._gate:
            kept = self._take()
            if kept is not None:
                answer, left = await self._carry(kept, envelope)
                if not left:
                    return answer
            if self._closed:
                return VendorAnswer(failure="unsent", detail="the relay is closed")
            answer, _ = await self._carry(SmtpSession(self._server, self._context), envelope, fresh=True)
            return answer

    async def _carry(
        self, session: SmtpSession, envelope: MailTransfer, *, fresh: bool = False
    ) -> tuple[VendorAnswer, bool]:
        """The answer, and whether the relay has only hung up: 421 or the end of the connection with nothing taken, but
        not a time-out, which has cost enough."""
        self._busy.add(session)
        keep = False
        try:
            async with asyncio.timeout(envelope.timeout):
                if fresh:
                    await session.open()
                answer = await session.mail(envelope)
            keep = answer.status != 421
            return answer, not keep
        except Refusal as refusal:
            return refusal.answer, True
        except TimeoutError:
            return session.judge("timed out"), False
        except (ConnectionLost, OSError, UnicodeError) as error:  # UnicodeError: a host that is no name of the DNS
            answer = session.judge(
                str(error) if isinstance(error, ConnectionLost) else f"{type(error).__name__}: {error}"
            )
            return answer, answer.failure == "unsent"
        finally:
            self._busy.discard(session)
            self._put_back(session, keep=keep)

    def _take(self) -> SmtpSession | None:
        """The connection used last: the others rest, and leave when nobody needs them."""
        while self._idle:
            session = self._idle.pop()
            if session.is_clean() and time.monotonic() - session.rested_at < IDLE_SECONDS:
                return session
            session.close()
        return None

    def _put_back(self, session: SmtpSession, *, keep: bool) -> None:
        """Keeps a connection whose last mail was answered. After a time-out the reply is still to come, and the next
        mail would take it for its own."""
        if not keep or self._closed or session.carried >= MAILS or not session.is_clean():
            session.close()
            return
        session.rested_at = time.monotonic()
        self._idle.append(session)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._dismiss)

    def _dismiss(self) -> None:
        """Hangs up on connections that nobody needed."""
        oldest = time.monotonic() - IDLE_SECONDS
        for session in [one for one in self._idle if one.rested_at <= oldest]:
            self._idle.remove(session)
            session.close()
        again = bool(self._idle)
        self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._dismiss) if again else None

    async def aclose(self) -> None:
        """Hangs up; a mail under way is broken off and gets its failure."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for session in (*self._idle, *self._busy):
            session.close("the relay was closed")
        self._idle.clear()
        await asyncio.sleep(0)  # so that the sockets are closed when this returns


def _trust(ca: str) -> ssl.SSLContext:
    """`ca` is PEM text; empty means the machine's own store."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except ssl.SSLError:
        raise Misconfigured("ca has to be a file of PEM certificates.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
