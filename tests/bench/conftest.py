"""Benchmarks that record to memory, and a server with scripted delays."""

from __future__ import annotations

from collections.abc import Iterator

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
