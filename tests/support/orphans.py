"""A busy process that is not a descendant of the tests."""

from __future__ import annotations

import subprocess

# The parent of the loop ends at once.
ORPHAN = "timeout {seconds} sh -c 'while :; do :; done' >/dev/null 2>&1 &"


def start_orphan(seconds: float) -> None:
    """Use one core for this time."""
    subprocess.run(["sh", "-c", ORPHAN.format(seconds=seconds)], check=True)
