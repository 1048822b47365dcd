"""Workflows, tasks and tools while a part of the application's telemetry raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llamatelemetry.pipeline import PipelineTracer, task, tool, workflow
from llamatelemetry.pipeline._instruments import global_instruments
from tests.support.broken_telemetry import Fault, broken_telemetry, each_fault


@pytest.fixture(autouse=True)
def new_instruments() -> Iterator[None]:
    global_instruments.cache_clear()
    yield
    global_instruments.cache_clear()


def run_pipeline() -> Any:
    @tool
    def add(number: int) -> int:
        return number + 1

    @task
    def items() -> Iterator[int]:
        yield add(1)
        yield add(2)

    @workflow
    def run() -> list[int]:
        return list(items())

    tracer = PipelineTracer()
    with tracer.pipeline("p") as span, tracer.stage("s") as stage:
        stage.set_attribute("a", 1)
        span.set_attribute("b", 2)
        return run()


@each_fault
def test_pipeline_has_same_result_when_telemetry_raises(kind: type[Fault]) -> None:
    with broken_telemetry(kind()):
        assert run_pipeline() == [2, 3]
