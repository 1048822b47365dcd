"""Clients of llama.cpp, recording to memory through OpenTelemetry's global providers."""

from __future__ import annotations

import pytest

from tests.llama.programs import any_program, program, real_cli
from tests.recorder import Recorder

__all__ = ["any_program", "program", "real_cli"]


@pytest.fixture
def recorded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What is made by then records here: our clients take no providers of their own."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", recorder.tracer_provider)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", recorder.meter_provider)
    monkeypatch.setattr("opentelemetry._logs._internal._LOGGER_PROVIDER", recorder.logger_provider)
    return recorder
