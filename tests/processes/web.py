"""The applications for gunicorn and uvicorn. Each response is the worker's process id."""

from __future__ import annotations

import asyncio
import os
import time

from calls import work

if os.environ.get("INIT_IN_CODE"):
    import llamatelemetry

    llamatelemetry.init()
    # At import: with --preload, the server runs it before it forks.
    work()


def wsgi(environ, start_response):
    pid = work()
    time.sleep(0.02)  # Meanwhile the other worker accepts requests.
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(pid).encode()]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    pid = work()
    await asyncio.sleep(0.02)  # Meanwhile the other worker accepts requests.
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(pid).encode()})
