"""Spans that a framework's instrumentation keeps out of the context of the call.

The frameworks are not installed. Functions with the names of their modules stand for them on the
stack, and have the local variables that lead to the span. `scripts/test_frameworks.py` checks the
released packages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from tests.genai.conftest import CLIENT_METRICS, chat, chat_response, make_call
from tests.support.recorder import Recorder

LANGCHAIN = "langchain_core.language_models.chat_models"
LLAMA_INDEX = "llama_index.core.llms.callbacks"
LANGFUSE = "langfuse.openai"
LITELLM = "opentelemetry.instrumentation.litellm"


def caller(module: str, *variables: str, **module_variables: Any) -> Callable[..., Any]:
    """Return a function of a module that gets local variables and an action, and calls the action."""
    code = f"def run(action, {', '.join(variables)}):\n    return action()\n"
    variables_of_module = {"__name__": module, **module_variables}
    exec(code, variables_of_module)
    return variables_of_module["run"]


def object_of(module: str, **attributes: Any) -> Any:
    """Return an object whose class is from a module."""
    return type("Handler", (), {"__module__": module, **attributes})()


class Finder:
    """One way from a framework's function to its span.

    Attributes:
        scope: Instrumentation scope of the span.
        instrumentation: Module of the instrumentation.
        has_metrics: Whether the instrumentation records metrics.
        run: Runs an action in the framework's function, given the span.
    """

    def __init__(
        self,
        scope: str,
        instrumentation: str,
        run: Callable[[trace.Span, Callable[[], Any]], Any],
        *,
        has_metrics: bool = False,
    ) -> None:
        self.scope, self.instrumentation = scope, instrumentation
        self.has_metrics, self.run = has_metrics, run


def in_langchain(make_handler: Callable[[trace.Span], Any]) -> Callable[..., Any]:
    run = caller(LANGCHAIN, "run_manager")

    def run_with(span: trace.Span, action: Callable[[], Any]) -> Any:
        handlers = [object_of("application.callbacks"), make_handler(span)]
        return run(action, SimpleNamespace(run_id="run-1", handlers=handlers))

    return run_with


def in_llama_index(attribute: str) -> Callable[..., Any]:
    def run_with(span: trace.Span, action: Callable[[], Any]) -> Any:
        handler = SimpleNamespace(
            open_spans={"OpenAI.chat-1": SimpleNamespace(**{attribute: span})}
        )
        null_handler = SimpleNamespace(open_spans={})
        root = SimpleNamespace(span_handlers=[handler])
        dispatcher = SimpleNamespace(span_handlers=[null_handler], root=root)
        return caller(LLAMA_INDEX, "span_id", dispatcher=dispatcher)(action, "OpenAI.chat-1")

    return run_with


OPENLLMETRY_LANGCHAIN = Finder(
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.langchain",
    in_langchain(
        lambda span: object_of(
            "opentelemetry.instrumentation.langchain.callback_handler",
            spans={"run-1": SimpleNamespace(span=span)},
        )
    ),
    has_metrics=True,
)
FINDERS = {
    "LangChain by OpenLLMetry": OPENLLMETRY_LANGCHAIN,
    "LangChain by OpenInference": Finder(
        "openinference.instrumentation.langchain",
        "openinference.instrumentation.langchain",
        in_langchain(
            lambda span: object_of(
                "openinference.instrumentation.langchain._tracer",
                get_span=lambda _self, run_id: {"run-1": span}.get(run_id),
            )
        ),
    ),
    "LangChain by Langfuse": Finder(
        "langfuse-sdk",
        "langfuse.langchain",
        in_langchain(
            lambda span: object_of(
                "langfuse.langchain.CallbackHandler",
                _runs={"run-1": SimpleNamespace(_otel_span=span)},
            )
        ),
    ),
    "LlamaIndex by OpenInference": Finder(
        "openinference.instrumentation.llama_index",
        "openinference.instrumentation.llama_index",
        in_llama_index("_otel_span"),
    ),
    "LlamaIndex by OpenLLMetry": Finder(
        "opentelemetry.instrumentation.llamaindex",
        "opentelemetry.instrumentation.llamaindex",
        in_llama_index("otel_span"),
    ),
    "LiteLLM by OpenLLMetry": Finder(
        LITELLM,
        LITELLM,
        lambda span, action: caller(LITELLM, "span")(action, span),
        has_metrics=True,
    ),
    "openai by Langfuse": Finder(
        "langfuse-sdk",
        LANGFUSE,
        lambda span, action: caller(LANGFUSE, "generation")(
            action, SimpleNamespace(_otel_span=span)
        ),
    ),
}


@pytest.fixture(params=FINDERS.values(), ids=FINDERS)
def finder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Finder:
    """Return each finder, with its instrumentation loaded."""
    found: Finder = request.param
    monkeypatch.setitem(sys.modules, found.instrumentation, ModuleType(found.instrumentation))
    return found


def start_span(recorder: Recorder, scope: str, **options: Any) -> trace.Span:
    """Start the span of another instrumentation, which is not made current."""
    tracer = trace.get_tracer(scope, tracer_provider=recorder.tracer_provider)
    return tracer.start_span("framework", **options)


def test_call_is_recorded_on_span_of_framework(finder, instrumenter, recorder):
    span = start_span(recorder, finder.scope)
    inner: list[trace.Span] = []

    def call() -> None:
        made = make_call(instrumenter, chat_response())
        inner.append(made.span)

    finder.run(span, call)
    assert inner == [span]
    span.end()
    assert [each.name for each in recorder.spans()] == ["framework"]
    assert set(recorder.metrics()) == (set() if finder.has_metrics else CLIENT_METRICS)


def test_request_is_sent_in_context_of_framework_span(finder, instrumenter, recorder):
    """The trace context of the request then names this span."""
    span = start_span(recorder, finder.scope)
    current: list[trace.Span] = []

    def call() -> None:
        made = instrumenter.start(chat())
        token = made.activate()
        current.append(trace.get_current_span())
        made.deactivate(token)
        made.finish(chat_response())

    finder.run(span, call)
    assert current == [span]


def test_call_is_recorded_on_unsampled_span_of_framework(finder, instrumenter, recorder):
    """Its metrics are complete, although the span records nothing."""
    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer(finder.scope)
    finder.run(tracer.start_span("framework"), lambda: make_call(instrumenter, chat_response()))
    assert recorder.spans() == []
    assert set(recorder.metrics()) == (set() if finder.has_metrics else CLIENT_METRICS)


def test_ended_span_of_framework_is_not_used(finder, instrumenter, recorder):
    span = start_span(recorder, finder.scope)
    span.end()
    finder.run(span, lambda: make_call(instrumenter, chat_response()))
    assert [each.name for each in recorder.spans()] == ["framework", "chat smol"]


def test_embeddings_are_not_recorded_on_chat_span_of_framework(finder, instrumenter, recorder):
    span = start_span(recorder, finder.scope)
    finder.run(span, lambda: make_call(instrumenter, chat_response(), operation="embeddings"))
    assert [each.name for each in recorder.spans()] == ["embeddings smol"]


def test_call_has_own_span_when_framework_has_none(finder, instrumenter, recorder):
    finder.run(None, lambda: make_call(instrumenter, chat_response()))
    assert [each.name for each in recorder.spans()] == ["chat smol"]


def test_call_has_own_span_outside_of_framework(finder, instrumenter, recorder):
    make_call(instrumenter, chat_response())
    assert [each.name for each in recorder.spans()] == ["chat smol"]


def test_current_span_of_same_call_precedes_that_of_framework(finder, instrumenter, recorder):
    """It is nearer to the request: the openai client is instrumented too."""
    span = start_span(recorder, finder.scope)
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "smol"}
    nearer = start_span(recorder, "client", kind=SpanKind.CLIENT, attributes=attributes)
    with trace.use_span(nearer):
        made = finder.run(span, lambda: make_call(instrumenter, chat_response()))
    assert made.span is nearer


def test_call_has_own_span_when_framework_changed(instrumenter, recorder, monkeypatch):
    """A new release of an instrumentation may keep its span elsewhere."""
    monkeypatch.setitem(sys.modules, "langfuse.langchain", ModuleType("langfuse.langchain"))
    run = in_langchain(lambda _: object_of("langfuse.langchain.CallbackHandler"))
    run(None, lambda: make_call(instrumenter, chat_response()))
    assert [each.name for each in recorder.spans()] == ["chat smol"]
