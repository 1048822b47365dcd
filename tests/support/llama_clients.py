"""One interface for the synchronous and the asynchronous client, for parametrized tests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient


class Driver:
    """A synchronous or asynchronous client with synchronous calls."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.is_async = kind == "async"
        make = AsyncLlamaCppClient if self.is_async else LlamaCppClient
        self.client: Any = make(url, **options)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.client.close())
        self._runner.close()

    def run(self, result: Any) -> Any:
        """Return the result of a call; await it if it is awaitable."""
        if not inspect.isawaitable(result):
            return result

        async def wait() -> Any:
            return await result

        return self._runner.run(wait())

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method: `driver("chat", messages)`. Return streams as lists."""
        call = self.client
        for part in name.split("."):
            call = getattr(call, part)
        result = self.run(call(*args, **kwargs))
        return self.listed(result) if kwargs.get("stream") else result

    def listed(self, stream: Any) -> list[Any]:
        if not self.is_async:
            return list(stream)

        async def read(source: AsyncIterator[Any]) -> list[Any]:
            return [chunk async for chunk in source]

        return self._runner.run(read(stream))

    def busy_connections(self) -> int:
        """Return the number of connections that are not idle."""
        pool = self.client._connection.http._transport._pool
        return sum(not connection.is_idle() for connection in pool.connections)

    def take(self, stream: Any, count: int) -> list[Any]:
        """Return the first chunks and close the stream."""
        if not self.is_async:
            with stream:
                return [next(stream) for _ in range(count)]

        async def read() -> list[Any]:
            async with stream:
                return [await anext(stream) for _ in range(count)]

        return self._runner.run(read())
