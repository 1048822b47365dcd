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
