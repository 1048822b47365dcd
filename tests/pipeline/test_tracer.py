"""`PipelineTracer`: spans, metrics and errors of its blocks, and `suppress()`."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

import llamatelemetry
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, set_active_config
from llamatelemetry.pipeline import PipelineTracer
from tests.support.recorder import Recorder


def by_name(recorder: Recorder) -> dict[str, ReadableSpan]:
    spans = {span.name: span for span in recorder.spans()}
    assert len(spans) == len(recorder.spans())
    return spans


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def test_pipeline_is_workflow_span_with_stages_as_children(telemetry: Recorder) -> None:
    tracer = PipelineTracer("search-service")
    with tracer.pipeline("rag", tier="gold", unknown=None) as span:
        span.set_attribute("documents", 3)
        with tracer.stage("retrieve") as stage:
            stage.set_attribute("top_k", 5)
    spans = by_name(telemetry)
    pipeline, retrieve = spans["invoke_workflow rag"], spans["retrieve"]
    assert dict(pipeline.attributes or {}) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "rag",
        "service.name": "search-service",
        "tier": "gold",
        "documents": 3,
    }
    assert dict(retrieve.attributes or {}) == {
        "llamatelemetry.task": "retrieve",
        "service.name": "search-service",
        "top_k": 5,
    }
    assert pipeline.kind is retrieve.kind is SpanKind.INTERNAL
    assert pipeline.status.status_code is retrieve.status.status_code is StatusCode.UNSET
    assert pipeline.parent is None
    assert is_child(retrieve, pipeline)


def test_each_kind_records_its_metrics(telemetry: Recorder) -> None:
    before = telemetry.metrics()  # from instruments that other tests of this process created
    tracer = PipelineTracer()
    with (
        tracer.pipeline("rag"),
        tracer.agent("researcher"),
        tracer.stage("think"),
        tracer.tool("search"),
    ):
        pass
    metrics = telemetry.metrics().items()
    found = {name: metric.data.data_points for name, metric in metrics if name not in before}
    assert {name: [dict(p.attributes) for p in points] for name, points in found.items()} == {
        "gen_ai.invoke_workflow.duration": [{"gen_ai.workflow.name": "rag"}],
        "gen_ai.invoke_agent.duration": [{"gen_ai.agent.name": "researcher"}],
        "gen_ai.invoke_agent.inference_calls": [{"gen_ai.agent.name": "researcher"}],
        "gen_ai.invoke_agent.tool_calls": [{"gen_ai.agent.name": "researcher"}],
        "gen_ai.execute_tool.duration": [
            {
                "gen_ai.tool.name": "search",
                "gen_ai.tool.type": "function",
                "gen_ai.agent.name": "researcher",
            }
        ],
    }
    assert found["gen_ai.invoke_agent.inference_calls"][0].sum == 0
    assert found["gen_ai.invoke_agent.tool_calls"][0].sum == 1
    assert found["gen_ai.invoke_workflow.duration"][0].explicit_bounds[:3] == (1, 5, 10)
    assert found["gen_ai.invoke_agent.duration"][0].explicit_bounds[-1] == 409.6
    assert found["gen_ai.invoke_agent.tool_calls"][0].explicit_bounds[-1] == 128


def test_tool_calls_count_for_innermost_agent(telemetry: Recorder) -> None:
    tracer = PipelineTracer()
    with tracer.agent("outer"), tracer.tool("a"), tracer.agent("inner"):
        with tracer.tool("b"):
            pass
        with tracer.tool("c"):
            pass
    counts = {
        point.attributes["gen_ai.agent.name"]: point.sum
        for point in telemetry.points("gen_ai.invoke_agent.tool_calls")
    }
    assert counts == {"outer": 1, "inner": 2}


def test_exception_marks_each_block_that_it_leaves(telemetry: Recorder) -> None:
    tracer = PipelineTracer()
    error = LookupError("no document about SECRET")

    def run() -> None:
        with tracer.pipeline("rag"):
            try:
                with tracer.stage("first"), tracer.stage("inner"):
                    raise error
            finally:
                with tracer.stage("clean up"):
                    pass

    with pytest.raises(LookupError) as caught:
        run()
    assert caught.value is error
    spans = by_name(telemetry)
    assert spans.pop("clean up").status.status_code is StatusCode.UNSET
    for span in spans.values():
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "LookupError"
        assert (span.attributes or {})["error.type"] == "LookupError"
        (event,) = span.events
        attributes = dict(event.attributes or {})
        assert event.name == "exception"
        assert attributes["exception.type"] == "LookupError"
        assert "test_tracer.py" in str(attributes["exception.stacktrace"])
        assert "exception.message" not in attributes
    (point,) = telemetry.points("gen_ai.invoke_workflow.duration")
    assert dict(point.attributes) == {"gen_ai.workflow.name": "rag", "error.type": "LookupError"}
    assert "SECRET" not in "".join(span.to_json() for span in telemetry.spans())


def test_exception_message_is_recorded_when_content_is_captured(telemetry: Recorder) -> None:
    set_active_config(effective_config(LlamaTelemetryConfig(capture_content="span_only")))
    try:
        with pytest.raises(ValueError, match="no such city"), PipelineTracer().stage("look"):
            raise ValueError("no such city")
    finally:
        set_active_config(None)
    (span,) = telemetry.spans()
    attributes = dict(span.events[0].attributes or {})
    assert attributes["exception.message"] == "no such city"
    assert str(attributes["exception.stacktrace"]).endswith("ValueError: no such city\n")
    assert span.status.description == "ValueError: no such city"


@pytest.mark.parametrize("error", [SystemExit(), SystemExit(0), GeneratorExit()], ids=repr)
def test_orderly_exit_is_not_recorded_as_error(telemetry: Recorder, error: BaseException) -> None:
    with pytest.raises(type(error)), PipelineTracer().stage("last"):
        raise error
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()], ids=repr)
def test_other_exit_is_recorded_as_error(telemetry: Recorder, error: BaseException) -> None:
    with pytest.raises(type(error)), PipelineTracer().stage("last"):
        raise error
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.ERROR


async def test_asynchronous_blocks_nest_within_their_task(telemetry: Recorder) -> None:
    tracer = PipelineTracer()

    async def work(name: str) -> None:
        async with tracer.stage(name):
            await asyncio.sleep(0)
            async with tracer.stage(f"{name} inner"):
                await asyncio.sleep(0)

    async with tracer.pipeline("rag"):
        await asyncio.gather(work("a"), work("b"))
    spans = by_name(telemetry)
    for name in "ab":
        assert is_child(spans[name], spans["invoke_workflow rag"])
        assert is_child(spans[f"{name} inner"], spans[name])


async def test_cancelled_stage_records_cancellation(telemetry: Recorder) -> None:
    started = asyncio.Event()

    async def wait() -> None:
        async with PipelineTracer().stage("wait"):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (span,) = telemetry.spans()
    assert (span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()


async def test_block_closed_by_another_task_ends_without_log_message(
    telemetry: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async def items():
        with PipelineTracer().stage("items"):
            yield 1
            yield 2

    iterator = items()
    assert await anext(iterator) == 1
    await asyncio.create_task(iterator.aclose())
    with caplog.at_level(logging.DEBUG):
        assert [span.name for span in telemetry.spans()] == ["items"]
    assert caplog.records == []


def test_block_raises_when_entered_twice(telemetry: Recorder) -> None:
    block = PipelineTracer().stage("once")
    with block:
        pass
    with pytest.raises(RuntimeError, match="Create a new one"), block:
        pass
    assert len(telemetry.spans()) == 1


def test_suppress_drops_all_spans_and_metrics_in_block(telemetry: Recorder) -> None:
    tracer = PipelineTracer()
    with tracer.pipeline("rag"):
        with llamatelemetry.suppress():
            with tracer.stage("quiet") as stage, tracer.tool("quiet tool"):
                stage.set_attribute("ignored", 1)
                assert not stage.is_recording()
            # A span of the application, which does not check for suppression.
            trace.get_tracer("application").start_span("also quiet").end()
        with tracer.stage("loud"):
            pass
    assert set(by_name(telemetry)) == {"invoke_workflow rag", "loud"}
    assert "gen_ai.execute_tool.duration" not in telemetry.metrics()


def test_suppress_works_without_enclosing_span(telemetry: Recorder) -> None:
    with llamatelemetry.suppress():
        trace.get_tracer("application").start_span("quiet").end()
    trace.get_tracer("application").start_span("loud").end()
    assert set(by_name(telemetry)) == {"loud"}


def test_blocks_do_nothing_without_setup() -> None:
    tracer = PipelineTracer()
    with tracer.pipeline("rag") as span, tracer.stage("retrieve"):
        assert not span.is_recording()


def test_forked_child_does_not_end_blocks_of_parent(telemetry: Recorder) -> None:
    pid = -1
    try:
        with PipelineTracer().stage("parents"):
            pid = os.fork()
            if pid == 0:
                raise InterruptedError("the child leaves the block first")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    except InterruptedError:
        os._exit(len(telemetry.spans()))
    assert len(telemetry.spans()) == 1


def test_pipeline_tracer_uses_given_providers(recorder: Recorder) -> None:
    tracer = PipelineTracer(
        tracer_provider=recorder.tracer_provider, meter_provider=recorder.meter_provider
    )
    with tracer.pipeline("rag"):
        pass
    assert set(by_name(recorder)) == {"invoke_workflow rag"}
    assert set(recorder.metrics()) == {"gen_ai.invoke_workflow.duration"}
