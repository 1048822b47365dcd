"""Models with a `generate` of their own: one span per call, with the tokens of its result."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from time import time_ns
from types import CellType, FunctionType
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.support.own_generate_classes import classes_with_own_generate
from tests.support.own_generate_models import (
    CASES,
    OwnGenerate,
    blip2,
    csm,
    dia,
    janus_image,
    patchtst,
    speecht5,
    whisper_long,
)
from tests.support.recorder import Recorder
from tests.support.transformers_models import (
    EOS,
    GREEDY,
    encoded,
    llama,
    make_pipeline,
    tokenizer,
)
from tests.transformers_plugin.conftest import calls, duration_ms, only

# The random models are not prepared for all that their methods warn about.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def build(case: Callable[[], OwnGenerate]) -> OwnGenerate:
    torch.manual_seed(0)
    try:
        return case()
    except AttributeError as error:
        if "module transformers has no attribute" in str(error):
            pytest.skip(f"this version of transformers lacks {error.name}")
        raise


def call(case: OwnGenerate) -> Any:
    torch.manual_seed(1)
    return getattr(case.model, case.method)(**case.arguments)


def plain(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.tolist()
    if isinstance(result, dict):
        return {name: plain(each) for name, each in result.items() if name == "sequences"}
    return [plain(each) for each in result] if isinstance(result, (list, tuple)) else result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_own_generate_is_one_span_with_tokens_of_result(
    instrument: Callable[..., Recorder], case: Callable[[], OwnGenerate]
) -> None:
    built = build(case)
    bare = plain(call(built))
    recorder = instrument()
    result = call(built)
    assert repr(plain(result)) == repr(bare)
    (span,) = calls(recorder)
    expected = None if built.output_tokens is None else built.output_tokens(result)
    assert span.attributes.get("gen_ai.usage.output_tokens") == expected
    assert span.attributes.get("gen_ai.usage.input_tokens") == built.input_tokens
    assert span.attributes["gen_ai.provider.name"] == "huggingface"
    phases = recorder.phases(span)
    if "gen_ai.ttft_ms" in span.attributes:
        assert 0 < span.attributes["gen_ai.ttft_ms"] <= duration_ms(span)
        assert (phases["decode"].end_time or 0) <= (span.end_time or 0)
    else:
        assert phases == {}
    assert recorder.tokens("output") == (expected or 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_class_of_library_with_own_generate_is_patched(
    instrument: Callable[..., Recorder],
) -> None:
    found = classes_with_own_generate()
    assert len(found) > 30  # 58 in version 5.24
    before = {(kind, name): vars(kind)[name] for kind, name in found}
    instrument()
    not_patched = [
        f"{kind.__module__}.{kind.__name__}.{name}"
        for (kind, name), method in before.items()
        if vars(kind)[name] is method
    ]
    assert not_patched == []
    TransformersInstrumentor().uninstrument()
    assert {(kind, name): vars(kind)[name] for kind, name in found} == before


def test_vision_encoder_is_part_of_prefill(instrumented: Recorder) -> None:
    case = build(blip2)
    started: list[int] = []
    case.model.vision_model.register_forward_pre_hook(lambda *_: started.append(time_ns()))
    call(case)
    span = only(instrumented)
    prefill = instrumented.phases(span)["prefill"]
    assert (prefill.start_time or 0) <= started[0] < (prefill.end_time or 0)
    first_ns = (span.start_time or 0) + span.attributes["gen_ai.ttft_ms"] * 1e6
    assert first_ns == pytest.approx(prefill.end_time, abs=1e6)


def test_windows_of_whisper_are_one_call(instrumented: Recorder) -> None:
    case = build(whisper_long)
    result = call(case)
    span = only(instrumented)
    # Discarded attempts and the start of each window are steps, but not tokens of the result.
    assert span.attributes["llamatelemetry.generation.steps"] > result.shape[1]
    assert span.attributes["gen_ai.usage.output_tokens"] == result.shape[1]
    per_token_ms = span.attributes["gen_ai.decode_ms"] / (result.shape[1] - 1)
    assert span.attributes["gen_ai.tpot_ms"] == pytest.approx(per_token_ms)
    assert set(instrumented.phases(span)) == {"prefill", "decode"}


class PassesOn(LlamaForCausalLM):
    """A model whose `generate` changes nothing."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return super().generate(*args, **kwargs)


class GeneratesTwice(LlamaForCausalLM):
    """A model that discards its first attempt."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        super().generate(*args, **kwargs)
        return super().generate(*args, **kwargs)


class LoopsItself(LlamaForCausalLM):
    """A model with a loop of its own, whose result starts with the prompt."""

    def generate(self, input_ids: Any, steps: int) -> Any:
        for _ in range(steps):
            following = self(input_ids).logits[:, -1].argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, following], dim=-1)
        return input_ids


class AnswersTexts(LlamaForCausalLM):
    """A model that returns texts, and generates with a part."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.part = LlamaForCausalLM(config)

    def generate(self, **kwargs: Any) -> Any:
        return tokenizer().batch_decode(self.part.generate(**kwargs))


class Streams(LlamaForCausalLM):
    """A model whose `generate` is a generator."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        yield super().generate(*args, **kwargs)


def of_kind(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind(llama().config).eval()


SIX = {"max_new_tokens": 6, "min_new_tokens": 6, **GREEDY}


def test_generate_that_passes_on_has_all_attributes_of_plain_one(instrumented: Recorder) -> None:
    inputs = encoded("Hi", "Hello there")
    own = of_kind(PassesOn)
    own.generate(**inputs, **SIX)
    LlamaForCausalLM.generate(of_kind(LlamaForCausalLM), **inputs, **SIX)
    first, second = (
        {
            name: value
            for name, value in span.attributes.items()
            if not name.endswith(("_ms", "_token", "per_second", "architecture"))
        }
        for span in calls(instrumented)
    )
    assert first == second
    assert first["llamatelemetry.batch.output_tokens"] == (6, 6)
    assert first["llamatelemetry.generation.finish_causes"] == ("length", "length")


def test_discarded_attempt_is_not_counted(instrumented: Recorder) -> None:
    of_kind(GeneratesTwice).generate(**encoded("Hello"), **SIX)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["llamatelemetry.generation.steps"] == 12
    per_token_ms = span.attributes["gen_ai.decode_ms"] / 5
    assert span.attributes["gen_ai.tpot_ms"] == pytest.approx(per_token_ms)


def test_events_of_several_parts_count_tokens_of_each_step(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument({"record_events": True})
    of_kind(GeneratesTwice).generate(**encoded("Hello"), **SIX)
    assert [event.attributes["tokens"] for event in only(recorder).events] == [1] * 12


def test_loop_outside_library_has_tokens_and_no_phases(instrumented: Recorder) -> None:
    of_kind(LoopsItself).generate(encoded("Hello")["input_ids"], 4)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.usage.output_tokens"] == 4
    assert "gen_ai.ttft_ms" not in span.attributes
    assert instrumented.phases(span) == {}


def test_result_without_token_ids_has_no_output_tokens(instrumented: Recorder) -> None:
    assert isinstance(of_kind(AnswersTexts).generate(**encoded("Hello"), **SIX)[0], str)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert "gen_ai.usage.output_tokens" not in span.attributes
    assert span.attributes["gen_ai.ttft_ms"] > 0
    # Without the tokens of the result, the time per token is that of the only loop.
    assert span.attributes["gen_ai.tpot_ms"] > 0


def test_generator_is_not_a_call_of_its_own(instrumented: Recorder) -> None:
    (result,) = of_kind(Streams).generate(**encoded("Hello"), **SIX)
    assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == result.shape[1] - 5


def test_content_of_own_generate_is_recorded(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument(capture_content="span_only")
    of_kind(PassesOn).generate(**encoded("Hello"), tokenizer=tokenizer(), **SIX)
    attributes = only(recorder).attributes
    assert "Hello" in attributes["gen_ai.input.messages"]
    assert "assistant" in attributes["gen_ai.output.messages"]


def test_failed_own_generate_is_recorded_and_leaves_nothing(instrumented: Recorder) -> None:
    class Broken(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            raise RuntimeError("enough")

    model = of_kind(PassesOn)
    with pytest.raises(RuntimeError, match="enough"):
        model.generate(
            **encoded("Hello"), **SIX, stopping_criteria=StoppingCriteriaList([Broken()])
        )
    span = only(instrumented)
    assert span.attributes["error.type"] == "RuntimeError"
    assert "gen_ai.usage.output_tokens" not in span.attributes
    instrumented.clear_spans()
    model.generate(**encoded("Hello"), **SIX)
    assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == 6


def test_attempt_that_fails_inside_own_generate_is_not_an_error(instrumented: Recorder) -> None:
    class Retries(LlamaForCausalLM):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            try:
                super().generate(*args, no_such_argument=1, **kwargs)
            except ValueError:
                return super().generate(*args, **kwargs)

    of_kind(Retries).generate(**encoded("Hello"), **SIX)
    span = only(instrumented)
    assert "error.type" not in span.attributes
    assert span.attributes["gen_ai.usage.output_tokens"] == 6


def test_unknown_arguments_of_own_generate_raise_as_without_instrumentation(
    instrument: Callable[..., Recorder],
) -> None:
    def errors() -> list[str]:
        found: list[str] = []
        for args, kwargs in (((1, 2, 3), {}), ((), {"no_such": 1}), ((encoded("Hi"),), {})):
            with pytest.raises((TypeError, AttributeError)) as raised:
                of_kind(LoopsItself).generate(*args, **kwargs)
            found.append(f"{type(raised.value)}: {raised.value}")
        return found

    bare = errors()
    recorder = instrument()
    assert errors() == bare
    assert len(calls(recorder)) == 3


def test_streamer_of_own_generate_is_a_stream(instrumented: Recorder) -> None:
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=30)
    arguments = {**encoded("Hello"), **SIX, "streamer": streamer}
    thread = threading.Thread(target=of_kind(PassesOn).generate, kwargs=arguments)
    thread.start()
    assert "".join(streamer)
    thread.join()
    span = only(instrumented)
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    (intervals,) = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 5


def test_pipeline_of_model_with_own_generate_is_one_call(
    instrumented: Recorder, tmp_path: Any
) -> None:
    pipe = make_pipeline("text-generation", tmp_path, of_kind(GeneratesTwice))
    pipe("Hello", **SIX)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.usage.output_tokens"] == 6


def test_assistant_with_own_generate_is_part_of_call(instrumented: Recorder) -> None:
    output = of_kind(PassesOn).generate(
        **encoded("Hello"), assistant_model=of_kind(PassesOn), max_new_tokens=9, **GREEDY
    )
    row = output[0, 5:].tolist()
    assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == (
        row.index(EOS) + 1 if EOS in row else len(row)
    )


@pytest.mark.slow
def test_compiled_model_is_one_call(instrumented: Recorder) -> None:
    for kind in (LlamaForCausalLM, PassesOn):
        model = of_kind(kind)
        model.forward = torch.compile(model.forward, backend="eager")
        model.generate(**encoded("Hello"), **SIX)
        assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == 6
        instrumented.clear_spans()
        compiled: Any = torch.compile(model, backend="eager")
        compiled.generate(**encoded("Hello"), **SIX)
        assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == 6
        instrumented.clear_spans()


def test_class_is_patched_when_it_is_created(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument()

    class Late(LlamaForCausalLM):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            super().generate(*args, **kwargs)
            return super().generate(*args, **kwargs)

    of_kind(Late).generate(**encoded("Hello"), **SIX)
    assert only(recorder).attributes["gen_ai.usage.output_tokens"] == 6
    TransformersInstrumentor().uninstrument()
    assert not hasattr(Late.generate, "__wrapped__")
    recorder.clear_spans()
    of_kind(Late).generate(**encoded("Hello"), **SIX)
    assert recorder.spans() == []
    instrument()
    of_kind(Late).generate(**encoded("Hello"), **SIX)
    assert len(calls(recorder)) == 1


def test_patched_method_can_be_pickled_by_value(instrumented: Recorder) -> None:
    """cloudpickle so pickles a class of `__main__`: each function with all that it refers to."""

    class Model(LlamaForCausalLM):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            return "own"

    method = vars(Model)["generate"]
    original = method.__wrapped__

    def copied(value: Any) -> Any:
        return value if value is original else pickle.loads(pickle.dumps(value))

    cells = tuple(CellType(copied(cell.cell_contents)) for cell in method.__closure__)
    copy = FunctionType(method.__code__, method.__globals__, closure=cells)
    copy.__dict__.update({name: copied(value) for name, value in vars(method).items()})
    model = Model(llama().config)
    assert copy(model, max_new_tokens=2) == "own"
    assert calls(instrumented) == []
    assert model.generate(max_new_tokens=2) == "own"
    assert len(calls(instrumented)) == 1


def test_mixin_of_model_records_nothing_for_other_classes(
    instrumented: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Doubles:
        config = LlamaForCausalLM.config_class()

        def generate(self, text: str) -> str:
            return 2 * text

    class Model(Doubles, LlamaForCausalLM):
        pass

    assert Doubles().generate("ab") == "abab"
    assert calls(instrumented) == []
    assert caplog.text == ""
    assert Model(llama().config).generate("ab") == "abab"
    assert len(calls(instrumented)) == 1


def test_class_creation_is_unchanged(instrument: Callable[..., Recorder]) -> None:
    def create() -> Any:
        class Made(PreTrainedModel):
            config_class = transformers.LlamaConfig

            def generate(self, x: int, *, y: int = 2) -> int:
                """Return a number."""
                return x + y

        class Accepts(PreTrainedModel):
            given: Any = None

            def __init_subclass__(cls, given: Any = None, **kwargs: Any) -> None:
                super().__init_subclass__(**kwargs)
                cls.given = given

        class WithArgument(Accepts, given=3):
            pass

        return (
            Made.generate.__qualname__,
            Made.generate.__doc__,
            Made.can_generate(),
            Made.config_class,
            Made(transformers.LlamaConfig()).generate(1, y=3),
            WithArgument.given,
        )

    bare = create()
    instrument()
    assert create() == bare


def test_internal_error_in_own_generate_does_not_reach_application(
    instrumented: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    internal_errors.set_strict(False)
    model = of_kind(GeneratesTwice)
    bad: Any = {"attention_mask": "no tensor"}
    with pytest.raises(AttributeError):
        model.generate(encoded("Hello")["input_ids"], **bad, **SIX)
    monkeypatch.setattr(
        "llamatelemetry_instrumentation_transformers._generation.read_own_result",
        lambda *_: 1 / 0,
    )
    output = model.generate(**encoded("Hello"), **SIX)
    assert output.shape == (1, 11)
    assert "llamatelemetry failed while reading the result of a generation" in caplog.text
    assert len(calls(instrumented)) == 2


@pytest.mark.parametrize(
    ("case", "output_type"),
    [(speecht5, "speech"), (csm, "speech"), (dia, "speech"), (janus_image, "image")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_speech_and_images_have_output_type(
    instrumented: Recorder, case: Callable[[], OwnGenerate], output_type: str
) -> None:
    built = build(case)
    if case is dia and not hasattr(built.model, "output_modalities"):
        pytest.skip("models of this version do not tell what they generate")
    call(built)
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.operation.name"] == "generate_content"
    assert attributes.get("gen_ai.output.type") == output_type


def test_forecast_has_no_operation(instrumented: Recorder) -> None:
    call(build(patchtst))
    span = only(instrumented)
    assert span.name == "time-series-forecasting"
    assert "gen_ai.operation.name" not in span.attributes
    assert span.attributes["llamatelemetry.task"] == "time-series-forecasting"
