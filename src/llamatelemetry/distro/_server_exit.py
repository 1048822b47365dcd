"""Flush when a server has shut down that then ends its process by a signal.

uvicorn handles SIGTERM, shuts down, restores the handler from before it started and raises the
signal again. If that is the default action, the process ends without `atexit` handlers. The
application may call `llamatelemetry.init()` only after uvicorn has started, and gunicorn's
uvicorn worker resets the handlers, so a signal handler is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamatelemetry.genai import PatchPoint, PatchTable, internal_errors


def server_exit_patches(flush: Callable[[], object]) -> PatchTable:
    """Return the patches that call `flush` at the end of a server's shutdown."""

    async def flush_after_shutdown(
        wrapped: Callable[..., Any],
        _instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            try:
                import asyncio  # uvicorn has imported it

                # In a thread: the server may be one of several tasks of the event loop.
                await asyncio.to_thread(flush)
            except Exception as error:
                internal_errors.log_once("flushing after the shutdown of a server", error)

    return PatchTable(
        [PatchPoint("uvicorn.server", "Server.shutdown", flush_after_shutdown, optional=True)]
    )
