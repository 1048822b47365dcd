"""`TransformersBackend` on real models: texts, stop sequences, errors and spans."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.inference import InferenceEngine, create_engine, traced_engine
from llamatelemetry.transformers import TransformersBackend
from llamatelemetry.transformers._text import IncrementalDecoder
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.support.recorder import Recorder
from tests.support.transformers_models import tokenizer
from tests.support.waiting import wait_for
from tests.transformers.conftest import only

GREEDY = {"temperature": 0}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def plugin(recorded: Recorder) -> Iterator[None]:
    instrumentor: Any = TransformersInstrumentor()
    instrumentor.instrument(**recorded.providers)
    yield
    instrumentor.uninstrument()


with_and_without_plugin = pytest.mark.parametrize(
    "active", [False, True], ids=["without plugin", "with plugin"], indirect=True
)


@pytest.fixture
def active(request: pytest.FixtureRequest) -> bool:
    if request.param:
        request.getfixturevalue("plugin")
    return bool(request.param)


def greedy(backend: TransformersBackend, prompt: str, tokens: int) -> str:
    """Return the greedy continuation of a prompt by the library itself."""
    inputs = tokenizer()(prompt, return_tensors="pt")
    output = backend.model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=tokens,
        do_sample=False,
    )
    return tokenizer().decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def test_backend_satisfies_engine_protocol(folder: Path) -> None:
    engine = create_engine("transformers", model_name_or_path=folder, device="cpu")
    assert isinstance(engine, InferenceEngine)
    assert isinstance(engine, TransformersBackend)
    assert engine.model_name == "tiny-llama"
    assert traced_engine(engine) is engine


@with_and_without_plugin
def test_generate_records_one_span(
    recorded: Recorder, active: bool, backend: TransformersBackend
) -> None:
    text = backend.generate("Hello", max_tokens=6, **GREEDY, stop_sequences=["never"])
    assert len(text) == 6
    span = only(recorded)
    assert span.kind is SpanKind.INTERNAL
    assert span.name == "text_completion tiny-llama"
    attributes = dict(span.attributes)
    assert (
        attributes.items()
        >= {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "huggingface",
            "gen_ai.request.model": "tiny-llama",
            "gen_ai.response.model": "tiny-llama",
            "gen_ai.request.max_tokens": 6,
            "gen_ai.request.stop_sequences": ("never",),
            "gen_ai.response.finish_reasons": ("length",),
            "gen_ai.usage.input_tokens": 5,
            "gen_ai.usage.output_tokens": 6,
        }.items()
    )
    assert attributes["gen_ai.prefill_ms"] > 0
    assert attributes["gen_ai.decode_ms"] > 0
    assert ("llamatelemetry.model.parameter_count" in attributes) == active
    assert set(recorded.phases(span)) == {"prefill", "decode"}
    assert (recorded.tokens("input"), recorded.tokens("output")) == (5, 6)
    for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
        (point,) = recorded.points(f"gen_ai.server.{metric}")
        assert point.count == 1


def test_generate_returns_text_of_library(recorded: Recorder, backend: TransformersBackend) -> None:
    expected = greedy(backend, "Hello", 12)
    assert backend.generate("Hello", max_tokens=12, **GREEDY) == expected
    assert "".join(backend.stream("Hello", max_tokens=12, **GREEDY)) == expected


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("length", [1, 2, 3])
def test_text_ends_before_stop_sequence(
    recorded: Recorder, backend: TransformersBackend, start: int, length: int
) -> None:
    whole = greedy(backend, "Hello", 12)
    stop = whole[start : start + length]
    expected = whole[: whole.index(stop)]
    assert backend.generate("Hello", max_tokens=12, stop_sequences=[stop], **GREEDY) == expected
    span = only(recorded)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    # Each token is a letter, so the model stopped right after the sequence.
    assert span.attributes["gen_ai.usage.output_tokens"] == len(expected) + length
    chunks = list(backend.stream("Hello", max_tokens=12, stop_sequences=[stop], **GREEDY))
    assert "".join(chunks) == expected
    assert all(chunks)


def test_call_settings_override_constructor_settings(
    recorded: Recorder, folder: Path, backend: TransformersBackend
) -> None:
    whole = greedy(backend, "Hello", 8)
    stopping = TransformersBackend(folder, device="cpu", stop_sequences=[whole[2]])
    assert stopping.generate("Hello", max_tokens=8, **GREEDY) == whole[: whole.index(whole[2])]
    assert stopping.generate("Hello", max_tokens=8, stop_sequences=[], **GREEDY) == whole


def test_repetition_penalty_reduces_repetition(
    recorded: Recorder, folder: Path, backend: TransformersBackend
) -> None:
    plain = backend.generate("Hello", max_tokens=24, **GREEDY)
    given = backend.generate("Hello", max_tokens=24, repetition_penalty=50.0, **GREEDY)
    constructed = TransformersBackend(folder, device="cpu", repetition_penalty=50.0)
    assert constructed.generate("Hello", max_tokens=24, **GREEDY) == given
    assert len(set(given)) > len(set(plain))
    penalized = [
        each
        for each in recorded.spans()
        if each.attributes.get("llamatelemetry.generation.repetition_penalty") == 50.0
    ]
    assert len(penalized) == 2


def test_chat_uses_template_of_model(recorded: Recorder, backend: TransformersBackend) -> None:
    output = backend.chat(HELLO, max_tokens=5, **GREEDY)
    template = tokenizer().apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
    expected = greedy(backend, template, 5)
    (choice,) = output["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": expected},
        "finish_reason": "length",
    }
    assert output["object"] == "chat.completion"
    assert output["model"] == "tiny-llama"
    assert output["usage"] == {
        "prompt_tokens": len(template),
        "completion_tokens": 5,
        "total_tokens": len(template) + 5,
    } or output["usage"]["prompt_tokens"] == len(tokenizer()(template).input_ids)
    assert only(recorded).attributes["gen_ai.operation.name"] == "chat"


def test_chat_sends_role_lines_when_model_has_no_template(
    recorded: Recorder, folder: Path, backend: TransformersBackend
) -> None:
    backend.tokenizer.chat_template = None
    output = backend.chat(HELLO, max_tokens=5, **GREEDY)
    expected = greedy(backend, "user: Hello\nassistant:", 5)
    assert output["choices"][0]["message"]["content"] == expected


@with_and_without_plugin
def test_generate_many_records_one_call_and_returns_same_texts_as_generate(
    recorded: Recorder, active: bool, backend: TransformersBackend
) -> None:
    prompts = ["Hi", "Hello there"]
    alone = [backend.generate(prompt, max_tokens=6, **GREEDY) for prompt in prompts]
    recorded.clear_spans()
    stop = alone[0][3]
    both = backend.generate_many(prompts, max_tokens=6, stop_sequences=[stop], **GREEDY)
    assert both == [text.partition(stop)[0] for text in alone]
    span = only(recorded)
    assert span.attributes["llamatelemetry.batch.input_tokens"] == (2, 11)
    first, second = span.attributes["llamatelemetry.batch.output_tokens"]
    assert first == alone[0].index(stop) + 1
    assert second == (alone[1].index(stop) + 1 if stop in alone[1] else 6)
    assert span.attributes["gen_ai.usage.output_tokens"] == first + second
    assert backend.generate_many([]) == []


@with_and_without_plugin
def test_stream_records_one_span_with_chunk_intervals(
    recorded: Recorder, active: bool, backend: TransformersBackend
) -> None:
    chunks = list(backend.stream(HELLO, max_tokens=6, **GREEDY))
    assert len(chunks) == 6
    span = only(recorded)
    assert span.name == "chat tiny-llama"
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    (intervals,) = recorded.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 5


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "llamatelemetry-generate"]


def test_closed_stream_stops_model(recorded: Recorder, backend: TransformersBackend) -> None:
    with backend.stream("Hello", max_tokens=400, **GREEDY) as stream:
        assert next(stream)
    assert _threads() == []
    assert list(stream) == []
    span = only(recorded)
    assert span.status.status_code is StatusCode.UNSET
    assert 1 <= span.attributes["gen_ai.usage.output_tokens"] < 400
    assert "gen_ai.response.finish_reasons" not in span.attributes


def test_deleted_stream_stops_model(recorded: Recorder, backend: TransformersBackend) -> None:
    next(backend.stream("Hello", max_tokens=400, **GREEDY))
    gc.collect()
    wait_for(lambda: not _threads())
    assert only(recorded).attributes["gen_ai.usage.output_tokens"] < 400


def test_error_of_model_reaches_caller(recorded: Recorder, backend: TransformersBackend) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("weights")

    backend.model.forward = broken
    with pytest.raises(KeyError, match="weights"):
        backend.generate("Hello", **GREEDY)
    with pytest.raises(KeyError, match="weights"):
        list(backend.stream("Hello", **GREEDY))
    with pytest.raises(KeyError, match="weights"):
        backend.embed("Hello")
    spans = recorded.spans()
    assert [span.attributes["error.type"] for span in spans] == ["KeyError"] * 3
    assert all(span.status.status_code is StatusCode.ERROR for span in spans)


def test_embed_returns_normalized_vectors_independent_of_batch(
    recorded: Recorder, backend: TransformersBackend, other_folders: dict[str, Path]
) -> None:
    for engine in (backend, TransformersBackend(other_folders["bert"], device="cpu")):
        recorded.clear_spans()
        both = engine.embed(["Hi", "Hello there"])
        span = only(recorded)
        assert span.attributes["gen_ai.operation.name"] == "embeddings"
        assert span.attributes["gen_ai.usage.input_tokens"] == 13
        assert span.attributes["gen_ai.embeddings.dimension.count"] == 32
        assert [sum(x * x for x in vector) for vector in both] == pytest.approx([1, 1], abs=1e-5)
        (alone,) = engine.embed("Hi")
        assert alone == pytest.approx(both[0], abs=1e-4)
        assert engine.embed([]) == []


def test_backend_runs_encoder_decoder(recorded: Recorder, other_folders: dict[str, Path]) -> None:
    engine = TransformersBackend(other_folders["t5"], device="cpu")
    text = engine.generate("Hello", max_tokens=5, **GREEDY)
    assert only(recorded).attributes["gen_ai.usage.output_tokens"] == 5
    assert len(text) == 5


def test_generate_raises_type_error_when_model_is_not_generative(
    other_folders: dict[str, Path],
) -> None:
    engine = TransformersBackend(other_folders["bert"], device="cpu")
    with pytest.raises(TypeError, match=r"must be a generative model, got .*BertModel.* Use embed"):
        engine.generate("Hello")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"temperature": -1}, "temperature must be 0 .* or more, got -1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be greater than 0 .*, got 0"),
        ({"stop_sequences": "END"}, "stop_sequences must be a list of texts, got a string"),
        ({"temperature": float("nan")}, "temperature must be 0 .* or more, got nan"),
        ({"temperature": float("inf")}, "temperature must be 0 .* or more, got inf"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be greater .*, got nan"),
        ({"prompt": ""}, "each text must have at least one token, got an empty text"),
    ],
)
def test_invalid_setting_raises_value_error(
    backend: TransformersBackend, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        backend.generate(**{"prompt": "Hello", **kwargs})


def test_empty_text_in_a_batch_raises_value_error(backend: TransformersBackend) -> None:
    for call in (backend.generate_many, backend.embed):
        with pytest.raises(ValueError, match="each text must have at least one token"):
            call(["Hello", ""])


def test_unknown_data_type_raises_value_error_before_loading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype must be a data type of torch .*, got 'fp16'"):
        TransformersBackend(tmp_path / "missing", dtype="fp16")


@with_and_without_plugin
def test_defaults_of_model_do_not_change_beams_or_penalty(
    recorded: Recorder, active: bool, folder: Path, other_folders: dict[str, Path]
) -> None:
    for where in (folder, other_folders["t5"]):
        engine = TransformersBackend(where, device="cpu")
        expected = engine.generate_many(["Hello", "Hi"], max_tokens=12, **GREEDY)
        engine.model.generation_config.update(
            num_beams=3,
            num_return_sequences=2,
            early_stopping=True,
            length_penalty=2.0,
            repetition_penalty=9.0,
        )
        assert engine.generate_many(["Hello", "Hi"], max_tokens=12, **GREEDY) == expected
        assert "".join(engine.stream("Hello", max_tokens=12, **GREEDY)) == expected[0]


@with_and_without_plugin
@pytest.mark.parametrize("as_text", [True, False])
def test_text_ends_before_stop_strings_of_model(
    recorded: Recorder, active: bool, backend: TransformersBackend, as_text: bool
) -> None:
    whole = backend.generate("Hello", max_tokens=12, **GREEDY)
    stop = whole[4:6]
    backend.model.generation_config.stop_strings = stop if as_text else ["none", stop]
    recorded.clear_spans()
    expected = whole[: whole.index(stop)]
    assert backend.generate("Hello", max_tokens=12, **GREEDY) == expected
    assert only(recorded).attributes["gen_ai.response.finish_reasons"] == ("stop",)
    # Those of a call are added.
    assert backend.generate("Hello", 12, stop_sequences=["\0"], **GREEDY) == expected
    assert backend.generate_many(["Hello"], max_tokens=12, **GREEDY) == [expected]
    assert "".join(backend.stream("Hello", max_tokens=12, **GREEDY)) == expected


def test_text_ends_before_stop_string_of_model_that_is_a_special_token(
    recorded: Recorder, backend: TransformersBackend
) -> None:
    whole = backend.generate("Hello", max_tokens=12, **GREEDY)
    (token,) = set(tokenizer()(whole)["input_ids"][4:5])
    word = tokenizer().convert_ids_to_tokens(token)
    backend.tokenizer.add_special_tokens({"additional_special_tokens": [word]})
    backend.model.generation_config.stop_strings = [word]
    recorded.clear_spans()
    text = backend.generate("Hello", max_tokens=12, **GREEDY)
    assert whole.startswith(text)
    assert only(recorded).attributes["gen_ai.usage.output_tokens"] == whole.index(word) + 1


def test_calls_leave_the_tokenizer_unchanged_for_other_threads(
    recorded: Recorder, backend: TransformersBackend
) -> None:
    for call in (
        lambda: backend.chat(HELLO, max_tokens=2, **GREEDY),
        lambda: backend.generate_many(["Hello", "Hi"], max_tokens=2, **GREEDY),
        lambda: backend.embed(["Hello", "Hi"]),
    ):
        call()
        # With padding or truncation set here, a call in another thread would get other tokens.
        assert backend.tokenizer.backend_tokenizer.padding is None
        assert backend.tokenizer.backend_tokenizer.truncation is None


def test_missing_gguf_file_is_named_in_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"GGUF file not found: .*missing\.gguf"):
        TransformersBackend(tmp_path / "missing.gguf")


def test_backend_loads_half_precision(
    recorded: Recorder, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        engine = TransformersBackend(folder, device="cpu", dtype="bfloat16")
    finally:
        library.removeHandler(caplog.handler)
    assert engine.model.dtype is torch.bfloat16
    # The old name of the option is deprecated.
    assert "deprecated" not in caplog.text
    assert len(engine.generate("Hello", max_tokens=3, **GREEDY)) == 3


LETTERS = st.text("ab ☃", max_size=12)


@given(
    text=LETTERS,
    stops=st.lists(st.text("ab ☃", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_decoder_returns_same_text_for_any_split_of_tokens(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    # Tokens are bytes, so a character may have several.
    tokens = tokenizer()(text).input_ids
    decoder = IncrementalDecoder(tokenizer(), stops)
    chunks: list[str] = []
    while tokens:
        cut = data.draw(st.integers(1, len(tokens)))
        chunks.append(decoder.feed(tokens[:cut]))
        tokens = tokens[cut:]
    chunks.append(decoder.finish())
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    assert "".join(chunks) == (text[: min(ends)[1]] if ends else text)
    assert decoder.stopped == bool(ends)


@pytest.mark.parametrize(
    ("stops", "expected"),
    [([" ", "a a"], "a"), (["bc", "abcd"], "a ba"), (["cd", "bcd"], "a ba"), (["x"], "a babcd")],
)
def test_decoder_stops_at_stop_sequence_that_ends_first(stops: list[str], expected: str) -> None:
    text = "a babcd"
    for size in (1, 2, 7):
        decoder = IncrementalDecoder(tokenizer(), stops)
        tokens = tokenizer()(text).input_ids
        chunks = [decoder.feed(tokens[at : at + size]) for at in range(0, len(tokens), size)]
        assert "".join([*chunks, decoder.finish()]) == expected
