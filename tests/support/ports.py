"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Return a port outside the ephemeral range, which stays free while the server is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def neighboring_ports(count: int) -> int:
    """Return the first of several neighboring ports that are free, as with `free_port`."""
    while True:
        first = random.randrange(20_000, 30_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("localhost", port)))
            return first
