"""Every error a caller or an operator can meet. Anything else that is raised is a bug.

`Problem` is the caller's: it has a code, a sentence that names the place in their JSON, and an HTTP status.
`Misconfigured` is the operator's: it stops the start or the lane and says what to do. It is deliberately not a
`Problem`, so no route can swallow it into an answer.
"""

from __future__ import annotations

import msgspec


class Problem(Exception):  # noqa: N818 - the word of RFC 9457; it is an answer, not a failure of ours
    """The caller's request cannot be honoured as it stands; sending it again unchanged will not help.

    code: the number in the answer's `code`, by the documented registry where one exists, else the HTTP status;
        None where the documented answer has none («This target hasn't been completed»).
    status: the HTTP status. retry_after: seconds for a `Retry-After` header, where waiting does help.
    """

    def __init__(self, error: str, *, code: int | None = 400, status: int = 400, retry_after: int | None = None):
        super().__init__(error)
        self.error = error
        self.code = code
        self.status = status
        self.retry_after = retry_after

    def encode(self) -> bytes:
        """The one shape of an error: {status, error, code}; `code` is missing only where the documented answer has
        none."""
        body: dict[str, object] = {"status": "fail", "error": self.error}
        return msgspec.json.encode(body if self.code is None else body | {"code": self.code})


class Misconfigured(Exception):  # noqa: N818 - named for what the operator has to mend, not for Python's habit
    """The operator has to change something; the sentence says what."""
