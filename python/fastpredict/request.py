"""What a handler may ask about its request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastpredict._core import Exchange


class Headers(Mapping[str, str]):
    """The fields of a request.

    Names match in any case; a repeated field is joined with ", " (RFC 9110, section 5.3).
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._fields))

    def __len__(self) -> int:
        return len({name for name, _ in self._fields})

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"

    def get_all(self, name: str) -> list[str]:
        """Return every value of a field, in order; an empty list when it is absent."""
        wanted = name.lower()
        return [value for field, value in self._fields if field == wanted]


class Request:
    """One request, given to a handler that has a parameter named ``request``.

    Use it while the handler runs, from any thread; afterwards the request is answered and asking
    raises RuntimeError. Keep the array or :attr:`body` instead: their memory is their own.

    Examples
    --------
    >>> @app.predict("/predict", dtype=np.float32)
    ... def predict(samples, request):
    ...     return (samples * 2, 200, {"X-Client": request.client})
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def method(self) -> str:
        """The method: always "POST", for now."""
        return self._exchange.method

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query; invalid UTF-8 as surrogate escapes."""
        return self._exchange.path

    @property
    def query(self) -> str:
        """What follows the "?", still encoded; "" when there is none."""
        return self._exchange.query

    @property
    def headers(self) -> Headers:
        """The fields; values decoded as latin-1."""
        return Headers(self._exchange.headers)

    @property
    def body(self) -> memoryview:
        """The body as it came: bytes, writable, no copy, the same memory as the array."""
        return self._exchange.body

    @property
    def client(self) -> str:
        """Who asks: "127.0.0.1:53412", "[::1]:53412" or "unix"."""
        return self._exchange.client

    def is_disconnected(self) -> bool:
        """Whether the client has left, so that nobody waits for the answer. No system call."""
        return self._exchange.is_disconnected()

    def __repr__(self) -> str:
        return f"<fastpredict.Request {self.method} {self.path!r} from {self.client}>"
