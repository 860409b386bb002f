"""One test for both clients: AsyncClient behind the face of the blocking one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from fastpredict.client import Client
from fastpredict.client_async import AsyncClient

Kind: TypeAlias = Callable[..., Any]


class Awaiting:
    """An AsyncClient whose calls are awaited in a loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            return await value(*args, **options)

        return lambda *args, **options: self._runner.run(call(*args, **options))

    def __enter__(self) -> Awaiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()


both = pytest.mark.parametrize("kind", [Client, Awaiting], ids=["blocking", "asyncio"])
