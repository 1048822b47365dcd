"""The secret key of one run, by which hashes of prompts are comparable within the run only."""

from __future__ import annotations

import os
from functools import cache

RUN_KEY_VARIABLE = "_LLAMATELEMETRY_RUN_KEY"
"""Variable by which `llamatelemetry run` gives the key to all processes of its command."""

_SIZE = 32


def new_run_key() -> str:
    """Return a random key as the value of `RUN_KEY_VARIABLE`."""
    return os.urandom(_SIZE).hex()


@cache
def run_key() -> bytes:
    """Return the key of this run: 32 bytes from the environment, else random for this process.

    Forked processes inherit it. It must not be recorded.
    """
    try:
        given = bytes.fromhex(os.environ.get(RUN_KEY_VARIABLE, ""))
    except ValueError:
        given = b""
    return given if len(given) == _SIZE else os.urandom(_SIZE)
