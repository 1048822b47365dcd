"""Fixtures of the llama.cpp tests."""

from __future__ import annotations

import pytest

from tests.support.llama_programs import any_program, program, real_cli
from tests.support.recorder import Recorder

__all__ = ["any_program", "program", "real_cli"]


@pytest.fixture
def recorded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Record with OpenTelemetry's global providers: the clients accept no others."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", recorder.tracer_provider)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", recorder.meter_provider)
    monkeypatch.setattr("opentelemetry._logs._internal._LOGGER_PROVIDER", recorder.logger_provider)
    return recorder
