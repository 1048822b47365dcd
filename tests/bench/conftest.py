"""Benchmarks that record to memory, and a server with scripted delays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.bench.scripted import ScriptedServer, scripted_server
from tests.recorder import Recorder


@pytest.fixture
def recorded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What is made by then records here: a runner takes no providers of its own."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", recorder.tracer_provider)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", recorder.meter_provider)
    return recorder


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server


@pytest.fixture(scope="module")
def first_in_the_line() -> Iterator[None]:
    """Where that is allowed, other programs wait for these tests and their servers.

    A nice value would not do: Linux weighs it against the programs of the same session alone
    (``sched_autogroup_enabled``). What is started from here inherits the policy.
    """
    if not hasattr(os, "sched_setscheduler"):  # Linux alone has it
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    yield
    os.sched_setscheduler(0, *before)
