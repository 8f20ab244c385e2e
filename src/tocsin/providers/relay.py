"""Mail through libcurl, one thread for each connection to a relay.

Not on the event loop: libcurl waits for the reply to the final dot in a blocking read even under its multi interface
(measured with 8.23: a relay served by the same loop never got to answer), which would hold up every push in flight.
libcurl releases Python's lock while it works, so a thread here costs a stack and no more.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pycurl

from tocsin.providers.transfer import Answer, Envelope, Transfer

IDLE_SECONDS = 30  # a kept connection older than this is not used again: relays hang up on idle clients


class Relay:
    """Connections to one relay for one provider object. Never raises for what happens on the wire."""

    def __init__(self, ca: str, connections: int) -> None:
        self._ca = ca
        self._gate = asyncio.Semaphore(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="relay")
        self._idle: list[Transfer] = []
        self._closed = False

    async def mail(self, envelope: Envelope) -> Answer:
        """One mail to one mailbox over a kept connection, at most once: libcurl does not repeat an upload by SMTP."""
        async with self._gate:
            if self._closed:
                return Answer(failure="unsent", detail="the relay is closed")
            kept = self._idle.pop() if self._idle else None
            answer = await self._carry(kept or self._make(), envelope)
            if kept and _has_left(answer) and not self._closed:
                answer = await self._carry(self._make(), envelope)
            return answer

    async def _carry(self, transfer: Transfer, envelope: Envelope) -> Answer:
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, _perform, transfer, envelope)
        # After a time-out libcurl keeps the connection with a reply still to come, which the next mail would take for
        # its own: only a connection whose last reply was a yes is used again.
        if answer.status == 250 and not self._closed:
            self._idle.append(transfer)
        else:
            transfer.curl.close()
        return answer

    async def aclose(self) -> None:
        """Hangs up; a mail under way is broken off within a second and gets its failure."""
        self._closed = True
        while self._idle:
            self._idle.pop().curl.close()
        self._threads.shutdown(wait=False, cancel_futures=False)

    def _make(self) -> Transfer:
        return Transfer(self._ca, IDLE_SECONDS).prepare_smtp(lambda: self._closed)


def _perform(transfer: Transfer, envelope: Envelope) -> Answer:
    transfer.load_mail(envelope)
    try:
        transfer.curl.perform()
    except pycurl.error as error:
        return transfer.read_replies(error)
    return transfer.read_replies(None)


def _has_left(answer: Answer) -> bool:
    """True when a relay has only hung up on a kept connection, as many do after a hundred mails: nothing was taken
    (421 says so itself), and a new connection is what it wants. Not after a time-out, which has cost enough."""
    timed_out = answer.detail.startswith(f"libcurl {pycurl.E_OPERATION_TIMEDOUT}:")
    return answer.status == 421 or (answer.failure == "unsent" and not timed_out)
