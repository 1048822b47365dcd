"""Continuous batching: one span per request, with its queue time, phases and tokens."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from transformers import GenerationConfig

from tests.support.recorder import Recorder
from tests.support.transformers_models import llama, make_pipeline, tokenizer
from tests.support.waiting import wait_for
from tests.transformers_plugin.conftest import calls, duration_ms, only

if not hasattr(transformers, "ContinuousBatchingConfig"):
    pytest.skip("this version of transformers needs a GPU for it", allow_module_level=True)

from transformers import ContinuousBatchingConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]
FOREVER = 4_000


def small(**settings: Any) -> Any:
    """Return settings with a small cache. By default, it takes most of the memory."""
    sizes = {"num_blocks": 400, "page_size": 16, "max_batch_tokens": 32}
    return ContinuousBatchingConfig(**sizes, max_blocks_per_request=0, **settings)


def settings(**more: Any) -> Any:
    return GenerationConfig(**{"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1} | more)


@pytest.fixture
def model() -> Any:
    return llama(max_position_embeddings=8192)


@pytest.fixture
def manager(model: Any, instrumented: Recorder) -> Iterator[Any]:
    """Return a running manager of an instrumented model."""
    managed = model.init_continuous_batching(
        generation_config=settings(), continuous_batching_config=small()
    )
    managed.start()
    yield managed
    managed.stop(hard_stop=True, block=True)


def result_of(manager: Any, request_id: str) -> Any:
    (*_, last) = manager.request_id_iter(request_id)
    return last


def test_each_request_of_generate_batch_is_one_span(instrumented: Recorder, model: Any) -> None:
    outputs = model.generate_batch(
        PROMPTS,
        generation_config=settings(),
        continuous_batching_config=small(),
        warmup=False,
    )
    spans = calls(instrumented)
    assert [len(output.generated_tokens) for output in outputs.values()] == [5, 5]
    assert sorted(span.attributes["gen_ai.usage.input_tokens"] for span in spans) == [3, 4]
    for span in spans:
        attributes = dict(span.attributes)
        times = {name: attributes.pop(name) for name in list(attributes) if _is_time(name)}
        assert attributes.pop("gen_ai.usage.input_tokens") == attributes.pop(
            "llamatelemetry.prompt_tokens"
        )
        assert attributes == {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "huggingface",
            "gen_ai.request.max_tokens": 5,
            "gen_ai.response.finish_reasons": ("length",),
            "gen_ai.usage.output_tokens": 5,
            "llamatelemetry.generation.finish_causes": ("length",),
            "llamatelemetry.generation.steps": 5,
            "llamatelemetry.model.architecture": "LlamaForCausalLM",
            "llamatelemetry.model.attention_implementation": "sdpa",
            "llamatelemetry.model.device": "cpu",
            "llamatelemetry.model.dtype": "float32",
            "llamatelemetry.model.parameter_count": sum(p.numel() for p in model.parameters()),
            "llamatelemetry.predicted_tokens": 5,
            "llamatelemetry.queue_source": "engine",
        }
        assert all(value > 0 for value in times.values())
        phases = instrumented.phases(span)
        assert list(phases) == ["queue", "prefill", "decode"]
        assert (span.start_time or 0) <= (phases["queue"].start_time or 0)
        assert (phases["decode"].end_time or 0) <= (span.end_time or 0)
    assert (instrumented.tokens("input"), instrumented.tokens("output")) == (7, 10)
    assert sum(p.count for p in instrumented.points("gen_ai.server.request.duration")) == 2


def _is_time(name: str) -> bool:
    return name.endswith(("_ms", "_duration", "_token", "per_second"))


def test_queue_and_phases_are_those_that_the_library_measures(
    instrumented: Recorder, model: Any
) -> None:
    outputs = model.generate_batch(
        PROMPTS,
        generation_config=settings(),
        continuous_batching_config=small(),
        warmup=False,
        record_timestamps=True,
    )
    by_length = {len(output.prompt_ids): output for output in outputs.values()}
    for span in calls(instrumented):
        output = by_length[span.attributes["gen_ai.usage.input_tokens"]]
        waited_s = output.lifespan[0] - output.created_time
        first, last = output.timestamps[0], output.timestamps[-1]
        assert span.attributes["llamatelemetry.queue_duration"] == pytest.approx(waited_s)
        times = {
            "gen_ai.prefill_ms": first - output.lifespan[0],
            "gen_ai.decode_ms": last - first,
            "gen_ai.ttft_ms": first - output.created_time,
        }
        for name, seconds in times.items():
            # The library reads the clock within the method that is observed.
            assert span.attributes[name] == pytest.approx(seconds * 1000, rel=0.5, abs=20)


def test_results_are_unchanged(instrument: Callable[..., Recorder], model: Any) -> None:
    def run() -> Any:
        outputs = model.generate_batch(
            PROMPTS,
            generation_config=settings(),
            continuous_batching_config=small(),
            warmup=False,
        )
        return [
            (name, output.prompt_ids, output.generated_tokens, output.timestamps, output.error)
            for name, output in outputs.items()
        ]

    bare = run()
    instrument()
    assert run() == bare


def test_streamed_request_is_a_stream(instrumented: Recorder, manager: Any) -> None:
    request_id = manager.add_request(PROMPTS[0], streaming=True, max_new_tokens=6)
    assert len(list(manager.request_id_iter(request_id))) == 6
    wait_for(lambda: calls(instrumented))
    span = only(instrumented)
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    first_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert first_s * 1000 == pytest.approx(span.attributes["gen_ai.ttft_ms"])
    (intervals,) = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 5


def test_request_is_child_of_span_that_submits_it(instrumented: Recorder, manager: Any) -> None:
    tracer = instrumented.tracer_provider.get_tracer("application")
    with tracer.start_as_current_span("handler") as handler:
        request_id = manager.add_request(PROMPTS[0])
        assert trace.get_current_span() is handler
    result_of(manager, request_id)
    (span,) = [span for span in calls(instrumented) if span.name == "text_completion"]
    assert span.parent is not None
    assert span.parent.span_id == handler.get_span_context().span_id


def test_sequences_of_one_request_are_one_span(instrumented: Recorder, model: Any) -> None:
    sampled = settings(do_sample=True, temperature=0.5, num_return_sequences=3)
    outputs = model.generate_batch(
        [PROMPTS[0]],
        generation_config=sampled,
        continuous_batching_config=small(),
        warmup=False,
    )
    assert len(outputs) == 3
    span = only(instrumented)
    assert span.attributes["gen_ai.request.choice.count"] == 3
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.usage.input_tokens"] == 4
    assert span.attributes["gen_ai.usage.output_tokens"] == 15
    assert span.attributes["llamatelemetry.batch.output_tokens"] == (5, 5, 5)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",) * 3
    assert span.attributes["gen_ai.tpot_ms"] == pytest.approx(
        span.attributes["gen_ai.decode_ms"] / 4
    )


def test_finish_cause_is_eos(instrumented: Recorder, manager: Any) -> None:
    output = result_of(manager, manager.add_request(PROMPTS[0]))
    instrumented.clear_spans()
    second = output.generated_tokens[1]
    again = result_of(manager, manager.add_request(PROMPTS[0], eos_token_id=[second, 250]))
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == len(again.generated_tokens) <= 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_canceled_request_has_tokens_so_far(instrumented: Recorder, manager: Any) -> None:
    request_id = manager.add_request(PROMPTS[0], max_new_tokens=FOREVER, streaming=True)
    results = manager.request_id_iter(request_id)
    for _ in range(3):
        next(results)
    manager.cancel_request(request_id)
    wait_for(lambda: calls(instrumented))
    span = only(instrumented)
    assert 3 <= span.attributes["gen_ai.usage.output_tokens"] < FOREVER
    assert span.attributes["gen_ai.decode_ms"] > 0
    assert "gen_ai.response.finish_reasons" not in span.attributes
    assert "error.type" not in span.attributes


def test_stopped_manager_fails_open_requests(instrumented: Recorder, manager: Any) -> None:
    request_id = manager.add_request(PROMPTS[0], max_new_tokens=FOREVER, streaming=True)
    next(manager.request_id_iter(request_id))
    manager.stop(hard_stop=True, block=True)
    span = only(instrumented)
    assert span.attributes["error.type"] == "RuntimeError"
    assert span.attributes["gen_ai.usage.output_tokens"] >= 1
    assert "gen_ai.response.finish_reasons" not in span.attributes


def test_request_that_fails_in_model_is_an_error(instrumented: Recorder, manager: Any) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError("no")

    manager.model.forward = broken
    output = result_of_failed(manager, manager.add_request(PROMPTS[0]))
    assert output.error == "no"
    span = only(instrumented)
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert span.attributes["gen_ai.usage.input_tokens"] == 4
    assert "gen_ai.ttft_ms" not in span.attributes


def result_of_failed(manager: Any, request_id: str) -> Any:
    found: list[Any] = []
    wait_for(lambda: found.append(manager.output_router.output_queue.get(timeout=1)) or found)
    return found[0]


def test_request_that_the_library_drops_is_recorded(instrumented: Recorder, model: Any) -> None:
    manager = model.init_continuous_batching(
        generation_config=settings(), continuous_batching_config=small()
    )
    # No thread takes it.
    manager.add_request(PROMPTS[0])
    del manager
    wait_for(lambda: calls(instrumented))
    assert only(instrumented).attributes["error.type"] == "GeneratorExit"


def test_full_queue_is_an_error(instrumented: Recorder, model: Any) -> None:
    import queue

    manager = model.init_continuous_batching(
        generation_config=settings(), continuous_batching_config=small()
    )

    class Full(queue.Queue):  # type: ignore[type-arg]
        def put(self, *_args: Any, **_kwargs: Any) -> None:
            raise queue.Full

    manager.input_queue = Full()
    with pytest.raises(queue.Full):
        manager.add_request(PROMPTS[0])
    assert only(instrumented).attributes["error.type"] == "queue.Full"


def test_paged_generate_is_one_call_with_phases_of_each_request(
    instrumented: Recorder, model: Any
) -> None:
    model.generation_config.continuous_batching_config = small()
    outputs = model.generate(
        torch.tensor([[5, 6, 7], [8, 9, 10]]),
        cache_implementation="paged",
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=-1,
        warmup=False,
    )
    assert outputs.shape == (1, 2, 8)
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.input_tokens"] == (3, 3)
    assert span.attributes["llamatelemetry.batch.output_tokens"] == (5, 5)
    assert span.attributes["gen_ai.usage.output_tokens"] == 10
    names = [each.name for each in instrumented.spans() if each is not span and each.parent]
    assert sorted(names) == ["decode"] * 2 + ["prefill"] * 2 + ["queue"] * 2
    assert "gen_ai.prefill_ms" not in span.attributes


def test_paged_generate_of_one_prompt_has_its_phases(instrumented: Recorder, model: Any) -> None:
    model.generation_config.continuous_batching_config = small()
    model.generate(
        torch.tensor([[5, 6, 7]]),
        cache_implementation="paged",
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=-1,
        warmup=False,
    )
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.attributes["llamatelemetry.queue_source"] == "engine"
    phases = instrumented.phases(span)
    assert list(phases) == ["queue", "prefill", "decode"]
    assert (phases["decode"].end_time or 0) <= (span.end_time or 0)
    assert span.attributes["gen_ai.ttft_ms"] <= duration_ms(span)


def test_pipeline_with_paged_cache_is_one_call(
    instrumented: Recorder, model: Any, tmp_path: Any
) -> None:
    model.generation_config.continuous_batching_config = small()
    pipe = make_pipeline("text-generation", tmp_path, model)
    pipe(
        "Hello",
        cache_implementation="paged",
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=-1,
        warmup=False,
    )
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


def test_suppressed_requests_are_not_recorded(instrumented: Recorder, manager: Any) -> None:
    with suppress_instrumentation():
        request_id = manager.add_request(PROMPTS[0])
    result_of(manager, request_id)
    assert instrumented.spans() == []


def test_state_of_request_can_be_copied_and_pickled(instrumented: Recorder, manager: Any) -> None:
    states: list[Any] = []
    put = manager.input_queue.put
    manager.input_queue.put = lambda state, **kwargs: (states.append(state), put(state, **kwargs))
    request_id = manager.add_request(PROMPTS[0])
    (state,) = states
    for duplicate in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert duplicate.request_id == request_id
        assert duplicate.initial_tokens == PROMPTS[0]
    result_of(manager, request_id)
    del duplicate, state
    states.clear()
    assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == 5


def test_server_of_library_is_recorded(instrumented: Recorder, model: Any) -> None:
    """The generation managers of `transformers serve`, without its web server."""
    serving = pytest.importorskip("transformers.cli.serving.utils")
    manager = serving.CBGenerateManager(small())
    manager.init_cb(model, settings())

    async def serve() -> Any:
        texts, streamer = manager.generate_streaming(
            model, tokenizer(), {"input_ids": PROMPTS[0]}, settings(), "first"
        )
        while await texts.get() is not None:
            pass
        plain = await manager.generate_non_streaming(
            model, tokenizer(), {"input_ids": PROMPTS[1]}, settings(), "second"
        )
        return streamer.total_tokens, len(plain[2])

    try:
        assert asyncio.run(serve()) == (5, 5)
    finally:
        manager.stop()
    streamed, plain = calls(instrumented)
    assert streamed.attributes["gen_ai.request.stream"] is True
    assert "gen_ai.request.stream" not in plain.attributes
    for span in (streamed, plain):
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.attributes["llamatelemetry.queue_source"] == "engine"


def test_server_without_continuous_batching_continues_trace(
    instrumented: Recorder, model: Any
) -> None:
    serving = pytest.importorskip("transformers.cli.serving.utils")
    manager = serving.GenerateManager()
    tracer = instrumented.tracer_provider.get_tracer("application")
    inputs = {"input_ids": torch.tensor([PROMPTS[0]])}

    async def serve() -> Any:
        with tracer.start_as_current_span("request"):
            texts, _ = manager.generate_streaming(model, tokenizer(), inputs, settings(), "first")
            while await texts.get() is not None:
                pass
            return await manager.generate_non_streaming(
                model, tokenizer(), inputs, settings(), "second"
            )

    text, count, tokens = asyncio.run(serve())
    assert (type(text), count, len(tokens)) == (str, 4, 5)
    wait_for(lambda: len(calls(instrumented)) == 3)
    (request,) = [span for span in instrumented.spans() if span.name == "request"]
    spans = [span for span in calls(instrumented) if span is not request]
    for span in spans:
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
    assert [span.attributes.get("gen_ai.request.stream") for span in spans] == [True, None]


def test_request_that_waits_again_is_one_span(
    instrumented: Recorder, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has room for one of two long requests, so one loses its place."""
    from transformers.generation.continuous_batching.requests import RequestState

    replaced: list[str] = []
    replace = RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState,
        "create_equivalent_initial_request",
        lambda state: (replaced.append(state.request_id), replace(state))[1],
    )
    outputs = model.generate_batch(
        [[5] * 20, [6] * 20],
        generation_config=settings(max_new_tokens=40),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=6,
            page_size=16,
            max_batch_tokens=64,
            max_blocks_per_request=0,
            safety_margin=0.0,
            scheduler_type="prefill_first",
        ),
        warmup=False,
    )
    assert [len(output.generated_tokens) for output in outputs.values()] == [40, 40]
    for span in calls(instrumented):
        assert span.attributes["gen_ai.usage.input_tokens"] == 20
        assert span.attributes["gen_ai.usage.output_tokens"] == 40
        assert span.attributes["llamatelemetry.generation.steps"] == 40
        assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert len(calls(instrumented)) == 2
    assert replaced
