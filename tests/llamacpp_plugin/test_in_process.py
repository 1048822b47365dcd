"""The real in-process bindings of llama.cpp with a real model."""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor, _llama_cpp
from tests.support.components import require
from tests.support.embedded_llama_server import make_embedded_server
from tests.support.recorder import Recorder

MESSAGES = [{"role": "user", "content": "Say hi."}]
CHAT = {"messages": MESSAGES, "max_tokens": 5}


@pytest.fixture(scope="module")
def xllamacpp() -> Any:
    require("xllamacpp")
    return importlib.import_module("xllamacpp")


@pytest.fixture(scope="module")
def server(xllamacpp: Any) -> Any:
    return make_embedded_server()


def engine_spans(recorder: Recorder) -> list[ReadableSpan]:
    """Return the spans of calls, without phase spans."""
    return [span for span in recorder.spans() if "llamatelemetry.phase" not in span.attributes]


def only(recorder: Recorder) -> ReadableSpan:
    (span,) = engine_spans(recorder)
    return span


def check_phases(recorder: Recorder, span: ReadableSpan, names: set[str]) -> None:
    phases = recorder.phases(span)
    assert set(phases) == names
    assert (span.start_time or 0) <= min(phase.start_time or 0 for phase in phases.values())
    for name in ("gen_ai.prefill_ms", "gen_ai.decode_ms", "gen_ai.ttft_ms", "gen_ai.tpot_ms"):
        assert span.attributes[name] > 0
    for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
        (point,) = recorder.points(f"gen_ai.server.{metric}")
        assert point.count == 1
        assert point.attributes["gen_ai.provider.name"] == "llama_cpp"


def test_latency_names_have_what_the_engine_reports(
    instrument: Callable[..., Recorder], server: Any
) -> None:
    recorder = instrument(engine_latency_names=True)
    server.handle_chat_completions(CHAT)
    found = only(recorder).attributes
    latencies = {name: value for name, value in found.items() if "gen_ai.latency." in name}
    prefill_s, decode_s = found["gen_ai.prefill_ms"] / 1000, found["gen_ai.decode_ms"] / 1000
    assert latencies == pytest.approx(
        {
            "gen_ai.latency.time_in_model_prefill": prefill_s,
            "gen_ai.latency.time_in_model_decode": decode_s,
            "gen_ai.latency.time_in_model_inference": prefill_s + decode_s,
        }
    )


def as_dict(body: dict[str, Any]) -> Any:
    return body


def as_text(body: dict[str, Any]) -> Any:
    return json.dumps(body)


def as_bytes(body: dict[str, Any]) -> Any:
    return json.dumps(body).encode()


forms = pytest.mark.parametrize("form", [as_dict, as_text, as_bytes])


def parsed(received: list[Any]) -> list[Any]:
    return [json.loads(item) if isinstance(item, (str, bytes)) else item for item in received]


def without_ids(received: list[Any]) -> list[Any]:
    return [
        {name: value for name, value in item.items() if name in {"object", "choices", "model"}}
        for item in parsed(received)
    ]


@pytest.mark.parametrize(
    ("method", "operation", "body"),
    [
        ("handle_completions", "text_completion", {"prompt": "Once", "max_tokens": 5}),
        ("handle_chat_completions", "chat", CHAT),
    ],
)
def test_plain_xllamacpp_call_is_recorded(
    instrumented: Recorder, server: Any, method: str, operation: str, body: dict[str, Any]
) -> None:
    reply = getattr(server, method)(dict(body))
    span = only(instrumented)
    assert span.name == operation
    assert span.kind is SpanKind.INTERNAL
    assert span.attributes["gen_ai.operation.name"] == operation
    assert span.attributes["gen_ai.request.max_tokens"] == 5
    assert span.attributes["gen_ai.response.model"].endswith(".gguf")
    assert "/" not in span.attributes["gen_ai.response.model"]
    assert span.attributes["gen_ai.response.id"] == reply["id"]
    assert span.attributes["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.attributes["llamatelemetry.queue_source"] == "remainder"
    assert "server.address" not in span.attributes
    check_phases(instrumented, span, {"queue", "prefill", "decode"})


@forms
def test_callback_gets_same_chunks_as_uninstrumented(
    instrument: Callable[..., Recorder], server: Any, form: Callable[[dict[str, Any]], Any]
) -> None:
    body = {**CHAT, "stream": True, "temperature": 0}
    bare: list[Any] = []
    assert server.handle_chat_completions(form(body), bare.append) is None
    recorder = instrument()
    received: list[Any] = []
    assert server.handle_chat_completions(form(body), callback=received.append) is None
    assert [type(item) for item in received] == [type(item) for item in bare]
    assert without_ids(received) == without_ids(bare)
    span = only(recorder)
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    check_phases(recorder, span, {"queue", "prefill", "decode"})


@forms
def test_plain_response_through_callback_is_recorded(
    instrumented: Recorder, server: Any, form: Callable[[dict[str, Any]], Any]
) -> None:
    received: list[Any] = []
    server.handle_chat_completions(form(CHAT), received.append)
    (reply,) = parsed(received)
    assert only(instrumented).attributes["gen_ai.response.id"] == reply["id"]
    assert "gen_ai.request.stream" not in only(instrumented).attributes


def test_callback_can_stop_stream(instrumented: Recorder, server: Any) -> None:
    received: list[Any] = []

    def stop_after_three(chunk: Any) -> bool:
        received.append(chunk)
        return len(received) == 3

    server.handle_chat_completions({**CHAT, "max_tokens": 200, "stream": True}, stop_after_three)
    assert len(received) == 3
    span = only(instrumented)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["gen_ai.response.id"] == received[0]["id"]


def test_stopped_stream_records_message_with_finish_reason(
    instrument: Callable[..., Recorder], server: Any
) -> None:
    recorder = instrument(capture_content="span_only")
    received: list[Any] = []

    def stop_after_three(chunk: Any) -> bool:
        received.append(chunk)
        return len(received) == 3

    server.handle_chat_completions({**CHAT, "max_tokens": 200, "stream": True}, stop_after_three)
    [message] = json.loads(only(recorder).attributes["gen_ai.output.messages"])
    texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in received]
    assert message == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "".join(texts)}],
        "finish_reason": "unknown",
    }


def test_stream_of_several_prompts_is_recorded_although_it_begins_with_null(
    instrumented: Recorder, server: Any
) -> None:
    received: list[Any] = []
    body = {"prompt": ["Once", "The sun"], "max_tokens": 3, "stream": True}
    server.handle_completions(body, received.append)
    assert received[0] is None
    span = only(instrumented)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length", "length")
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    assert span.attributes["gen_ai.response.id"] == received[1]["id"]


def test_xllamacpp_embeddings_are_recorded(instrumented: Recorder, server: Any) -> None:
    reply = server.handle_embeddings({"input": ["one", "two words"]})
    span = only(instrumented)
    assert span.name == "embeddings"
    assert span.attributes["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]


def test_returned_error_fails_call(instrumented: Recorder, server: Any) -> None:
    assert "error" in server.handle_rerank({"query": "a", "documents": ["b"]})
    span = only(instrumented)
    assert span.name == "retrieval"
    assert span.attributes["llamatelemetry.task"] == "rerank"
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "not_supported_error"


def test_raised_error_fails_call_and_is_passed_on(instrumented: Recorder, server: Any) -> None:
    with pytest.raises(ValueError, match="Expected 'messages' to be an array"):
        server.handle_chat_completions({"messages": 3})
    assert only(instrumented).attributes["error.type"] == "ValueError"
    with pytest.raises(TypeError):
        server.handle_chat_completions()


def test_uninstrument_restores_extension_class(
    xllamacpp: Any, instrument: Callable[..., Recorder]
) -> None:
    before = dict(vars(xllamacpp.Server))
    instrument()
    assert vars(xllamacpp.Server)["handle_completions"] is not before["handle_completions"]
    assert (
        xllamacpp.Server.handle_completions["dict"] is not None
    )  # Subscripting selects a specialization of the Cython function.
    LlamaCppInstrumentor().uninstrument()
    assert dict(vars(xllamacpp.Server)) == before


def test_xllamacpp_call_is_child_of_current_span(instrumented: Recorder, server: Any) -> None:
    tracer = trace.get_tracer("app", tracer_provider=instrumented.tracer_provider)
    with tracer.start_as_current_span("pipeline") as pipeline:
        server.handle_chat_completions(dict(CHAT))
    call, _ = engine_spans(instrumented)
    assert call.parent is not None
    assert call.parent.span_id == pipeline.get_span_context().span_id


@pytest.fixture(scope="module")
def llama() -> Any:
    require("llama_cpp")
    llama_cpp = importlib.import_module("llama_cpp")
    path = str(find_demo_model())
    return llama_cpp.Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)


slow = pytest.mark.slow  # The tests do not install it, because its source build takes minutes.


def check_llama(recorder: Recorder, operation: str, output: int) -> ReadableSpan:
    span = only(recorder)
    assert span.name == f"{operation} SmolLM2-135M-Instruct.Q4_1.gguf"
    assert span.kind is SpanKind.INTERNAL
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.usage.output_tokens"] == output
    assert span.attributes["llamatelemetry.server.context_length"] == 512
    assert "llamatelemetry.queue_duration" not in span.attributes  # It serves one caller at a time.
    prompt = span.attributes["llamatelemetry.prompt_tokens"]
    cached = span.attributes["llamatelemetry.cached_tokens"]
    assert prompt + cached == span.attributes["gen_ai.usage.input_tokens"]
    assert span.attributes["gen_ai.prefill_ms"] <= span.attributes["gen_ai.ttft_ms"]
    check_phases(recorder, span, {"prefill", "decode"})
    return span


@slow
@pytest.mark.parametrize("method", ["create_completion", "__call__"])
def test_llama_completion_is_recorded(instrumented: Recorder, llama: Any, method: str) -> None:
    reply = getattr(llama, method)("The quick brown fox", max_tokens=6)
    span = check_llama(instrumented, "text_completion", 6)
    assert span.attributes["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)


@slow
def test_llama_chat_is_one_call_despite_inner_completion(
    instrumented: Recorder, llama: Any
) -> None:
    reply = llama.create_chat_completion(MESSAGES, max_tokens=6)
    span = check_llama(instrumented, "chat", 6)
    assert span.attributes["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]


@slow
@pytest.mark.parametrize("text", ["Say hi.", "Count to three in words and then stop."])
def test_llama_stream_has_token_counts_of_plain_response(
    instrumented: Recorder, llama: Any, text: str
) -> None:
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "temperature": 0}
    usage = llama.create_chat_completion(**ask, max_tokens=40)["usage"]
    instrumented.clear_spans()
    chunks = list(llama.create_chat_completion(**ask, max_tokens=40, stream=True))
    assert chunks[-1]["choices"][0]["finish_reason"] is not None
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["llamatelemetry.prompt_tokens"] == 1  # The other tokens were cached.
    assert span.attributes["gen_ai.request.stream"] is True


@slow
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_llama_stream_left_early_records_tokens_so_far(
    instrumented: Recorder, llama: Any, how: str
) -> None:
    stream = llama("Once upon a time", max_tokens=60, stream=True)
    next(stream)
    next(stream)
    if how == "closed":
        stream.close()
        only(instrumented)  # At once, although the stream is still referenced.
        assert list(stream) == []
    del stream
    span = only(instrumented)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    # The next call is recorded separately.
    llama("Once upon a time", max_tokens=2)
    assert len(engine_spans(instrumented)) == 2


@slow
@pytest.mark.parametrize("started", [True, False])
def test_error_thrown_into_llama_stream_fails_call(
    instrumented: Recorder, llama: Any, started: bool
) -> None:
    stream = llama("Once upon a time", max_tokens=60, stream=True)
    if started:
        next(stream)
    with pytest.raises(KeyError, match="stop"):
        stream.throw(KeyError("stop"))
    span = only(instrumented)  # At once, although the stream is still referenced.
    assert span.attributes["error.type"] == "KeyError"
    assert list(stream) == []


@slow
def test_llama_chunk_that_was_sent_for_is_recorded(instrumented: Recorder, llama: Any) -> None:
    stream = llama("Once upon a time", max_tokens=3, stream=True)
    first = stream.send(None)
    stream.close()
    assert only(instrumented).attributes["gen_ai.response.id"] == first["id"]


@slow
def test_chat_handler_that_is_a_generator_makes_one_call(
    instrumented: Recorder, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(*, llama: Any, **_: Any) -> Iterator[Any]:
        for chunk in llama.create_completion("A chat handler", max_tokens=4, stream=True):
            yield {**chunk, "object": "chat.completion.chunk"}

    monkeypatch.setattr(llama, "chat_handler", handler)
    list(llama.create_chat_completion(MESSAGES, stream=True))
    check_llama(instrumented, "chat", 4)


@slow
def test_positional_arguments_of_llama_are_recorded(instrumented: Recorder, llama: Any) -> None:
    llama.create_completion("Positional arguments are", None, 3, 0.5)
    span = check_llama(instrumented, "text_completion", 3)
    assert span.attributes["gen_ai.request.max_tokens"] == 3
    assert span.attributes["gen_ai.request.temperature"] == 0.5


@slow
def test_llama_that_is_not_hashable_is_recorded(instrumented: Recorder, llama: Any) -> None:
    class Model(type(llama)):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Model)

        __hash__ = None  # type: ignore[assignment]

    model = Model(llama.model_path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    model("The quick brown fox", max_tokens=3)
    check_llama(instrumented, "text_completion", 3)
    key = id(model)
    del model
    gc.collect()
    assert key not in _llama_cpp._runs


@slow
@pytest.mark.parametrize("meanwhile", ["another call", "closed"])
def test_decode_of_llama_stream_ends_with_its_last_token(
    instrumented: Recorder, llama: Any, meanwhile: str
) -> None:
    model = type(llama)(llama.model_path, n_ctx=512, n_threads=1, verbose=False)
    stream = model("Once upon a time", max_tokens=60, stream=True)
    next(stream)
    if meanwhile == "closed":
        model.close()
    else:
        model("The quick brown fox", max_tokens=2)
        instrumented.clear_spans()
    stream.close()
    assert only(instrumented).attributes["gen_ai.decode_ms"] == 0.0


@slow
def test_llama_error_fails_call(instrumented: Recorder, llama: Any) -> None:
    with pytest.raises(ValueError, match="exceed context window"):
        llama("Hi " * 1000)
    span = only(instrumented)
    assert span.attributes["error.type"] == "ValueError"


@slow
def test_recorded_llama_is_not_kept_alive(instrumented: Recorder, llama: Any) -> None:
    llama("Hi", max_tokens=1)
    run = _llama_cpp._runs[id(llama)]
    assert run._llama() is llama
    assert not any(value is llama for value in vars(run).values())


@slow
def test_llama_embeddings_are_recorded(instrumented: Recorder, llama: Any) -> None:
    require("llama_cpp")
    llama_cpp = importlib.import_module("llama_cpp")
    path = str(find_demo_model())
    embedder = llama_cpp.Llama(path, n_ctx=64, n_threads=1, embedding=True, verbose=False)
    embedder.create_embedding(["hi you", "ho"])
    span = only(instrumented)
    assert span.name.startswith("embeddings ")
    assert span.attributes["gen_ai.usage.input_tokens"] == 3
