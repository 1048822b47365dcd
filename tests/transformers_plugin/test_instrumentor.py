"""The instrumentor: its options, when it patches, and other instrumentations beside it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from transformers import GenerationMixin

from llamatelemetry.transformers import TransformersInstrumentor as CoreInstrumentor
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.support.recorder import Recorder
from tests.support.transformers_models import GREEDY, encoded, llama
from tests.transformers_plugin.conftest import calls, only


def generate() -> None:
    llama().generate(**encoded("Hello"), max_new_tokens=3, min_new_tokens=3, **GREEDY)


def test_core_exports_instrumentor() -> None:
    assert CoreInstrumentor is TransformersInstrumentor
    parameters = inspect.signature(TransformersInstrumentor).parameters
    assert {name: each.default for name, each in parameters.items()} == {
        "record_events": False,
        "emit_metrics": True,
        "strict_operation_names": True,
    }


def test_emit_metrics_false_records_no_metrics(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument({"emit_metrics": False})
    generate()
    assert len(calls(recorder)) == 1
    assert recorder.metrics() == {}


def test_explicit_options_reconfigure_active_instrumentor_without_warning(
    instrument: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = instrument()
    plugin: Any = TransformersInstrumentor(record_events=True)
    plugin.instrument()
    assert caplog.text == ""
    generate()
    assert len(only(recorder).events) == 3
    recorder.clear_spans()
    TransformersInstrumentor(False).instrument()
    generate()
    assert len(only(recorder).events) == 0
    assert caplog.text == ""
    # Without explicit options, a second `instrument` warns as that of any instrumentor does.
    plugin.uninstrument()
    assert instrument() is recorder
    TransformersInstrumentor().instrument()
    assert "already instrumented" in caplog.text


def test_uninstrument_resets_options(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument({"record_events": True})
    TransformersInstrumentor().uninstrument()
    instrument()
    generate()
    assert len(only(recorder).events) == 0


def test_instrument_patches_nothing_when_sdk_is_disabled(
    instrument: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before = vars(GenerationMixin)["generate"]
    instrument()
    assert vars(GenerationMixin)["generate"] is before


@pytest.mark.slow
def test_instrumenting_imports_neither_transformers_nor_torch() -> None:
    program = """
import sys
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
TransformersInstrumentor().instrument()
assert not {"transformers", "torch"} & set(sys.modules)
import llamatelemetry.transformers
assert not {"transformers", "torch"} & set(sys.modules)
from transformers import GenerationMixin, Pipeline
assert hasattr(GenerationMixin.generate, "_self_wrapper")
assert hasattr(Pipeline.__call__, "_self_wrapper")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_call_enriches_span_of_other_instrumentation(
    instrumented: Recorder,
) -> None:
    model = llama()
    model.config._name_or_path = model.name_or_path = "org/tiny"
    tracer = trace.get_tracer("framework", tracer_provider=instrumented.tracer_provider)
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "huggingface",
        "gen_ai.request.model": "org/tiny",
    }
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=attributes):
        model.generate(**encoded("Hello"), max_new_tokens=3, min_new_tokens=3, **GREEDY)
    span = only(instrumented)
    assert span.name == "chat"
    assert span.attributes["gen_ai.prefill_ms"] > 0
    assert span.attributes["llamatelemetry.model.architecture"] == "LlamaForCausalLM"


def test_call_is_child_of_workflow_span(instrumented: Recorder) -> None:
    tracer = trace.get_tracer("framework", tracer_provider=instrumented.tracer_provider)
    with tracer.start_as_current_span("invoke_workflow") as parent:
        generate()
    (span,) = [each for each in calls(instrumented) if each.name == "text_completion"]
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("/models/secret/tiny", "tiny"),
        ("./tiny", "tiny"),
        ("", None),
    ],
)
def test_model_name_is_never_a_path(
    instrumented: Recorder, given: str, expected: str | None
) -> None:
    model = llama()
    model.config._name_or_path = given
    model.name_or_path = given
    model.generate(**encoded("Hello"), max_new_tokens=2, **GREEDY)
    span = only(instrumented)
    assert span.attributes.get("gen_ai.request.model") == expected
    assert "secret" not in str(dict(span.attributes))
