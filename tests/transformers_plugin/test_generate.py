"""`generate` of real models: settings, token counts, finish reasons and times."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.trace import SpanKind
from transformers import (
    GenerationConfig,
    GenerationMixin,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer

from tests.support.recorder import Recorder
from tests.support.transformers_models import (
    BOS,
    EOS,
    GREEDY,
    PAD,
    encoded,
    llama,
    make_pipeline,
    not_letters,
    t5,
    tokenizer,
)
from tests.transformers_plugin.conftest import calls, only


def new_tokens(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return output[:, inputs["input_ids"].shape[1] :]


class StopAfter(StoppingCriteria):
    """Stops each row after its own number of tokens."""

    def __init__(self, prefix: int, lengths: list[int]) -> None:
        self.ends = torch.tensor(lengths) + prefix

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.shape[1] >= self.ends


def test_generate_records_all_attributes_of_span(instrumented: Recorder) -> None:
    model, inputs = llama(), encoded("Hello")
    output = model.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=True, temperature=0.5, top_k=7
    )
    span = only(instrumented)
    attributes = dict(span.attributes)
    times = {
        name: attributes.pop(name)
        for name in (
            "gen_ai.prefill_ms",
            "gen_ai.decode_ms",
            "gen_ai.ttft_ms",
            "gen_ai.tpot_ms",
            "gen_ai.server.time_to_first_token",
            "gen_ai.server.time_per_output_token",
            "llamatelemetry.generation.tokens_per_second",
        )
    }
    assert output.shape[1] == inputs["input_ids"].shape[1] + 6
    assert span.kind is SpanKind.INTERNAL
    assert span.name == "text_completion"
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "huggingface",
        "gen_ai.request.max_tokens": 6,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 6,
        "llamatelemetry.prompt_tokens": 5,
        "llamatelemetry.predicted_tokens": 6,
        "llamatelemetry.generation.finish_causes": ("length",),
        "llamatelemetry.generation.mode": "sample",
        "llamatelemetry.generation.steps": 6,
        "llamatelemetry.model.architecture": "LlamaForCausalLM",
        "llamatelemetry.model.attention_implementation": "sdpa",
        "llamatelemetry.model.device": "cpu",
        "llamatelemetry.model.dtype": "float32",
        "llamatelemetry.model.parameter_count": sum(p.numel() for p in model.parameters()),
    }
    assert all(isinstance(value, float) and value > 0 for value in times.values())
    per_token_s = times["gen_ai.decode_ms"] / 5 / 1000
    assert times["gen_ai.server.time_per_output_token"] == pytest.approx(per_token_s)
    assert times["gen_ai.server.time_to_first_token"] * 1000 == times["gen_ai.prefill_ms"]
    assert times["llamatelemetry.generation.tokens_per_second"] == pytest.approx(1 / per_token_s)


def test_generate_records_client_and_server_metrics(instrumented: Recorder) -> None:
    llama().generate(**encoded("Hello"), max_new_tokens=4, min_new_tokens=4, **GREEDY)
    points_by_name = {
        name: metric.data.data_points for name, metric in instrumented.metrics().items()
    }
    assert set(points_by_name) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }
    assert (instrumented.tokens("input"), instrumented.tokens("output")) == (5, 4)
    for points in points_by_name.values():
        for point in points:
            attributes = dict(point.attributes)
            attributes.pop("gen_ai.token.type", None)
            assert attributes == {
                "gen_ai.operation.name": "text_completion",
                "gen_ai.provider.name": "huggingface",
            }


def test_token_counts_exclude_padding_and_tokens_after_eos(
    instrumented: Recorder,
) -> None:
    inputs = encoded("Hi", "Hello there")
    # The third token that the model generates for the first row becomes the end-of-text token.
    model = llama()
    free = new_tokens(
        model.generate(**inputs, max_new_tokens=8, **GREEDY, eos_token_id=None), inputs
    )
    instrumented.clear_spans()
    ends = int(free[0, 2])
    assert ends not in free[1].tolist()
    assert ends not in free[0, :2].tolist()
    output = model.generate(**inputs, max_new_tokens=8, eos_token_id=ends, **GREEDY)
    assert new_tokens(output, inputs)[0, 3:].eq(PAD).all()
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.input_tokens"] == (2, 11)
    assert span.attributes["llamatelemetry.batch.output_tokens"] == (3, 8)
    assert span.attributes["gen_ai.usage.output_tokens"] == 11
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop", "length")
    assert span.attributes["llamatelemetry.generation.finish_causes"] == ("eos", "length")
    assert span.attributes["llamatelemetry.generation.steps"] == 8


def test_input_tokens_exclude_padding_when_there_is_no_attention_mask(
    instrumented: Recorder,
) -> None:
    inputs = encoded("Hi", "Hello there")
    llama().generate(inputs["input_ids"], max_new_tokens=2, min_new_tokens=2, **GREEDY)
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.input_tokens"] == (2, 11)


# Warning of transformers 4.
@pytest.mark.filterwarnings("ignore:`do_sample` is set to `False`")
def test_sampling_settings_are_recorded_only_when_sampling(instrumented: Recorder) -> None:
    model = llama()
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    model.generate(**encoded("Hello"), max_new_tokens=2, **GREEDY)
    settings = {name for name in only(instrumented).attributes if name.startswith("gen_ai.request")}
    assert settings == {"gen_ai.request.max_tokens"}


@pytest.mark.parametrize("pad", [PAD, EOS], ids=["pad token", "pad token is eos token"])
def test_output_tokens_end_where_criterion_stops_each_row(instrumented: Recorder, pad: int) -> None:
    inputs = encoded("Hi", "Hello there")
    after = StoppingCriteriaList([StopAfter(inputs["input_ids"].shape[1], [2, 4])])
    output = llama().generate(
        **inputs,
        max_new_tokens=9,
        min_new_tokens=9,
        stopping_criteria=after,
        pad_token_id=pad,
        **GREEDY,
    )
    assert new_tokens(output, inputs).shape[1] == 4
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.output_tokens"] == (2, 4)
    assert span.attributes["llamatelemetry.generation.finish_causes"] == ("criteria", "criteria")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")


def test_finish_cause_is_stop_string_when_stop_string_matches(instrumented: Recorder) -> None:
    model, inputs = llama(), encoded("Hello")
    only_letters = {**GREEDY, "suppress_tokens": not_letters(), "max_new_tokens": 9}
    free = model.generate(**inputs, **only_letters)
    instrumented.clear_spans()
    stop = tokenizer().decode(new_tokens(free, inputs)[0, 2:4])
    output = model.generate(**inputs, stop_strings=[stop], tokenizer=tokenizer(), **only_letters)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == new_tokens(output, inputs).shape[1] <= 4
    assert span.attributes["llamatelemetry.generation.finish_causes"] == ("stop_string",)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.request.stop_sequences"] == (stop,)
    assert "gen_ai.input.messages" not in span.attributes


def test_finish_reason_is_length_when_max_time_is_reached(instrumented: Recorder) -> None:
    llama().generate(**encoded("Hello"), max_new_tokens=200, max_time=0.0, eos_token_id=None)
    span = only(instrumented)
    assert span.attributes["llamatelemetry.generation.finish_causes"] == ("time",)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)


def test_generate_counts_tokens_of_every_return_sequence(instrumented: Recorder) -> None:
    inputs = encoded("Hi", "Hello")
    output = llama().generate(
        **inputs, max_new_tokens=3, min_new_tokens=3, do_sample=True, num_return_sequences=3
    )
    assert len(output) == 6
    span = only(instrumented)
    assert span.attributes["gen_ai.request.choice.count"] == 3
    assert span.attributes["gen_ai.usage.input_tokens"] == 7
    assert span.attributes["gen_ai.usage.output_tokens"] == 18
    assert span.attributes["llamatelemetry.batch.size"] == 2
    assert span.attributes["llamatelemetry.batch.output_tokens"] == (3,) * 6
    assert len(span.attributes["gen_ai.response.finish_reasons"]) == 6
    assert instrumented.points("gen_ai.server.request.duration")[0].count == 1


def test_beam_search_records_beams_and_tokens(instrumented: Recorder) -> None:
    inputs = encoded("Hi", "Hello")
    output = llama().generate(
        **inputs, max_new_tokens=4, num_beams=3, num_return_sequences=2, **GREEDY
    )
    rows = new_tokens(output, inputs).tolist()
    expected = tuple(row.index(EOS) + 1 if EOS in row else len(row) for row in rows)
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.output_tokens"] == expected
    assert span.attributes["llamatelemetry.generation.beams"] == 3
    assert span.attributes["llamatelemetry.generation.mode"] == "beam_search"
    assert span.attributes["llamatelemetry.generation.steps"] == 4
    assert set(instrumented.phases(span)) == {"prefill", "decode"}


def test_output_tokens_exclude_decoder_start_token(instrumented: Recorder) -> None:
    output = t5().generate(**encoded("Hello"), max_new_tokens=4, min_new_tokens=4, **GREEDY)
    assert output.shape == (1, 5)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.usage.output_tokens"] == 4
    assert span.attributes["gen_ai.request.max_tokens"] == 4


def test_generate_counts_input_tokens_of_inputs_embeds(instrumented: Recorder) -> None:
    model, inputs = llama(), encoded("Hello")
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    output = model.generate(inputs_embeds=embedded, max_new_tokens=4, min_new_tokens=4, **GREEDY)
    assert output.shape == (1, 4)
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.usage.output_tokens"] == 4


def test_generate_reads_positional_arguments(instrumented: Recorder) -> None:
    model, inputs = llama(), encoded("Hello")["input_ids"]
    config = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=None)
    streamer = TextIteratorStreamer(tokenizer())
    model.generate(inputs, config, None, None, None, None, None, streamer)
    span = only(instrumented)
    assert span.attributes["gen_ai.request.stream"] is True
    assert "gen_ai.response.time_to_first_chunk" in span.attributes
    instrumented.clear_spans()
    model.generate(inputs, config, None, None, None, None, llama())
    span = only(instrumented)
    assert span.attributes["llamatelemetry.generation.mode"] == "assisted_generation"


def test_input_is_one_bos_token_when_there_is_no_prompt(instrumented: Recorder) -> None:
    output = llama().generate(max_new_tokens=3, min_new_tokens=3, **GREEDY)
    assert output[0, 0] == BOS
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 1
    assert span.attributes["gen_ai.usage.output_tokens"] == 3


def test_assisted_generation_is_one_call_with_several_tokens_per_step(
    instrument: Callable[..., Recorder],
) -> None:
    recorder = instrument({"record_events": True})
    model, inputs = llama(), encoded("Hello")
    output = model.generate(
        **inputs, assistant_model=llama(), max_new_tokens=12, eos_token_id=None, **GREEDY
    )
    span = only(recorder)
    assert span.attributes["gen_ai.usage.output_tokens"] == new_tokens(output, inputs).shape[1]
    assert span.attributes["llamatelemetry.generation.mode"] == "assisted_generation"
    # Both are the same model, so nearly all drafted tokens are accepted.
    assert 1 <= span.attributes["llamatelemetry.generation.steps"] < 12
    assert sum(event.attributes["tokens"] for event in span.events) == 12


def test_prompt_lookup_counts_output_tokens(instrumented: Recorder) -> None:
    inputs = encoded("abcabcabcabc")
    output = llama().generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=8, **GREEDY)
    assert (
        only(instrumented).attributes["gen_ai.usage.output_tokens"]
        == new_tokens(output, inputs).shape[1]
    )


@pytest.mark.parametrize("drafts", ["assistant", "prompt lookup"])
@pytest.mark.parametrize("end", ["criterion", "stop string", "time"])
def test_assisted_generation_with_other_criteria_counts_each_token(
    instrumented: Recorder, drafts: str, end: str
) -> None:
    class Never(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.zeros(len(input_ids), dtype=torch.bool)

    ends: dict[str, dict[str, Any]] = {
        "criterion": {"stopping_criteria": StoppingCriteriaList([Never()])},
        # The assistant would need a tokenizer of its own.
        "stop string": {"stop_strings": ["never"], "tokenizer": tokenizer()},
        "time": {"max_time": 1000.0},
    }
    if (drafts, end) == ("assistant", "stop string"):
        pytest.skip("the library passes no tokenizer to the assistant")
    model, inputs = llama(), encoded("abcabcabcabc")
    by = {"assistant_model": llama()} if drafts == "assistant" else {"prompt_lookup_num_tokens": 3}
    output = model.generate(
        **inputs, **by, **ends[end], max_new_tokens=12, min_new_tokens=12, **GREEDY
    )
    span = only(instrumented)
    assert new_tokens(output, inputs).shape[1] == 12
    assert span.attributes["gen_ai.usage.output_tokens"] == 12
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["llamatelemetry.generation.steps"] < 12


@pytest.mark.clock
def test_record_events_adds_one_event_per_step(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument({"record_events": True})
    llama().generate(**encoded("Hello"), max_new_tokens=5, min_new_tokens=5, **GREEDY)
    span = only(recorder)
    assert [event.name for event in span.events] == ["llamatelemetry.generation.step"] * 5
    assert [dict(event.attributes) for event in span.events] == [
        {"index": index, "tokens": 1} for index in range(5)
    ]
    times = [event.timestamp for event in span.events]
    assert times == sorted(times)
    first_ms = (times[0] - (span.start_time or 0)) / 1e6
    assert first_ms == pytest.approx(span.attributes["gen_ai.ttft_ms"], abs=0.1)
    assert (span.start_time or 0) < times[0]
    assert times[-1] < (span.end_time or 0)


def test_streamer_makes_generate_a_stream(instrumented: Recorder) -> None:
    model, streamer = llama(), TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=30)
    arguments = {**encoded("Hello"), "streamer": streamer, "max_new_tokens": 5, **GREEDY}
    thread = threading.Thread(target=model.generate, kwargs={**arguments, "min_new_tokens": 5})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text
    span = only(instrumented)
    assert span.attributes["gen_ai.request.stream"] is True
    first_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert first_s * 1000 == pytest.approx(span.attributes["gen_ai.ttft_ms"])
    (intervals,) = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 4
    assert intervals.sum * 1000 == pytest.approx(span.attributes["gen_ai.decode_ms"])
    (first,) = instrumented.points("gen_ai.client.operation.time_to_first_chunk")
    assert first.count == 1


def test_concurrent_generations_are_recorded_separately(instrumented: Recorder) -> None:
    model = llama()

    def run(length: int) -> None:
        model.generate(**encoded("x" * length), max_new_tokens=length, min_new_tokens=length)

    threads = [threading.Thread(target=run, args=(length,)) for length in (3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = {
        (
            span.attributes["gen_ai.usage.input_tokens"],
            span.attributes["gen_ai.usage.output_tokens"],
        )
        for span in calls(instrumented)
    }
    assert counted == {(3, 3), (5, 5), (7, 7)}


@pytest.mark.parametrize("second", ["generate", "pipeline"])
@pytest.mark.parametrize("first", ["generate", "pipeline"])
def test_task_that_outlives_generation_has_calls_of_its_own(
    instrumented: Recorder, first: str, second: str, tmp_path: Path
) -> None:
    """The streamer of the first one creates the task, so the task has a copy of its context."""
    model, pipe = llama(), make_pipeline("text-generation", tmp_path)
    two: dict[str, Any] = {"max_new_tokens": 2, "min_new_tokens": 2, **GREEDY}
    run: dict[str, Callable[..., Any]] = {
        "generate": lambda **streamer: model.generate(**encoded("Hello"), **two, **streamer),
        "pipeline": lambda **streamer: pipe("Hello", **two, **streamer),
    }

    class Starts(BaseStreamer):
        task: Any = None

        def put(self, value: Any) -> None:
            if self.task is None:
                self.task = asyncio.get_running_loop().create_task(work())

        def end(self) -> None:
            pass

    async def work() -> None:
        run[second]()

    async def main() -> None:
        streamer = Starts()
        run[first](streamer=streamer)
        await streamer.task

    asyncio.run(main())
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in calls(instrumented)] == [2, 2]


class Broken(StoppingCriteria):
    """Raises at a length of 8 tokens."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] == 8:
            raise RuntimeError("enough")
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_failed_generation_records_tokens_generated_before_error(instrumented: Recorder) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        llama().generate(
            **encoded("Hello"),
            max_new_tokens=9,
            min_new_tokens=9,
            stopping_criteria=StoppingCriteriaList([Broken()]),
        )
    span = only(instrumented)
    assert span.attributes["error.type"] == "RuntimeError"
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    # The criteria raised before the third token was complete.
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert span.attributes["gen_ai.ttft_ms"] > 0


def test_failed_generation_of_several_sequences_has_no_output_tokens(
    instrumented: Recorder,
) -> None:
    """It is unknown which of them had ended."""
    with pytest.raises(RuntimeError, match="enough"):
        llama().generate(
            **encoded("Hello"),
            max_new_tokens=9,
            do_sample=True,
            num_return_sequences=3,
            stopping_criteria=StoppingCriteriaList([Broken()]),
        )
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert "gen_ai.usage.output_tokens" not in span.attributes
    assert span.attributes["gen_ai.ttft_ms"] > 0


@pytest.mark.skipif(
    "Callable"
    not in str(inspect.signature(GenerationMixin.generate).parameters.get("custom_generate")),
    reason="this version does not accept custom loops",
)
def test_custom_loop_is_timed_by_its_stopping_criteria(instrumented: Recorder) -> None:
    seen: dict[str, Any] = {}

    def loop(model: Any, input_ids: Any, **kwargs: Any) -> Any:
        criteria = kwargs["stopping_criteria"]
        seen.update(kind=type(criteria).__name__, elements=[type(e).__name__ for e in criteria])
        assert isinstance(criteria, StoppingCriteriaList)
        done = False
        while not done:
            following = model(input_ids).logits[:, -1].argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, following], dim=-1)
            done = bool(criteria(input_ids, None).all())
        return input_ids

    inputs = encoded("Hello")
    llama().generate(**inputs, custom_generate=loop, max_new_tokens=4, eos_token_id=None)
    assert seen == {"kind": "StoppingCriteriaList", "elements": ["MaxLengthCriteria"]}
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == 4
    assert span.attributes["llamatelemetry.generation.steps"] == 4
    assert span.attributes["gen_ai.decode_ms"] > 0
