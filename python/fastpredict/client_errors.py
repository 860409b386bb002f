"""What a call of a client can raise: one type for each kind of failure, all of them ClientError."""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """Any failure of a call. Wrong arguments are TypeError and ValueError, as everywhere."""


class ClientConnectionError(ClientError, ConnectionError):
    """The server can't be reached, or the connection ended before the answer was whole."""


class ClientTimeoutError(ClientError, TimeoutError):
    """The call took longer than its ``timeout``, whatever it was doing then."""


class BadResponse(ClientError):
    """What came is no HTTP answer, or not the array that was asked for."""


class StatusError(ClientError):
    """The server answered with an error. Raised itself for what is neither 4xx nor 5xx.

    Attributes
    ----------
    status
        The HTTP status.
    message
        The server's own sentence, from ``{"error": ...}``, or the beginning of what it sent.
    headers
        The answer's fields, names in lower case.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(status, message, dict(headers))
        self.status = status
        self.message = message
        self.headers = dict(headers)

    def __str__(self) -> str:
        return f"{self.message} (HTTP {self.status})"


class BadInput(StatusError):
    """4xx: the server doesn't take this: a wrong path, dtype or shape, too large. Don't repeat."""


class HandlerError(StatusError):
    """5xx but 503 and 504: the handler raised. What, is in the server's log."""


class Unavailable(StatusError):
    """503 and 504: starting, draining, full, or waited too long.

    Where the server itself says so, the handler was not called; a handler that answers 503 was.

    Attributes
    ----------
    retry_after
        Seconds that the server asks to wait; None where it didn't say.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.args = (status, message, self.headers, retry_after)
        self.retry_after = retry_after
