"""Fixtures: a scripted server, and realtime priority."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.timed_server import ScriptedServer, scripted_server


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server


@pytest.fixture(scope="module")
def realtime_priority() -> Iterator[None]:
    """Run these tests and their servers with realtime priority, where permitted.

    A nice value is not enough: Linux applies it only within a session
    (`sched_autogroup_enabled`). Child processes inherit the policy.
    """
    if not hasattr(os, "sched_setscheduler"):  # available on Linux only
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    yield
    os.sched_setscheduler(0, *before)
