"""Timings of a generation, computed from its steps and compared with hand-computed values."""

from __future__ import annotations

from llamatelemetry.genai import EngineTimings, GenerationSteps, Response, measure_phases
from tests.genai.conftest import COMMON

MS = 1_000_000


def steps(*ended: tuple[int, int]) -> GenerationSteps:
    recorded_steps = GenerationSteps(started_ns=100 * MS)
    for at_ms, tokens in ended:
        recorded_steps.add(at_ms * MS, tokens)
    return recorded_steps


def test_first_token_ends_prefill_and_last_token_ends_decode():
    timings = steps((130, 6), (140, 7), (160, 8)).timings(
        "huggingface", input_tokens=5, output_tokens=3, cached_tokens=2
    )
    assert timings == EngineTimings(
        prompt_tokens=3,
        prefill_ms=30.0,
        predicted_tokens=3,
        decode_ms=30.0,
        cached_tokens=2,
        decoded_tokens=2,
        provider="huggingface",
    )


def test_time_per_output_token_of_batch_counts_tokens_of_one_sequence():
    # Four sequences of three tokens each; decode generated two tokens of each.
    timings = steps((130, 6), (140, 7), (160, 8)).timings(
        "huggingface", input_tokens=20, output_tokens=12
    )
    assert timings is not None
    phases = measure_phases(timings, attempt_s=0.07, headers_s=None, has_queue=False)
    assert phases.time_per_output_token_s == 0.015
    assert phases.request_s == 0.06


def test_step_can_add_several_tokens():
    recorded_steps = steps((130, 6), (140, 9), (150, 11))
    assert recorded_steps.tokens_per_second == 250
    timings = recorded_steps.timings("huggingface", input_tokens=None, output_tokens=None)
    assert timings is not None
    assert timings.decoded_tokens == 5
    assert (timings.prompt_tokens, timings.predicted_tokens) == (None, None)


def test_rates_are_unknown_without_enough_tokens():
    assert steps().timings("huggingface", input_tokens=5, output_tokens=0) is None
    assert steps().tokens_per_second is None
    assert steps((130, 6)).tokens_per_second is None


def test_steps_of_a_stream_are_intervals_between_chunks(start, recorder):
    call = start(stream=True)
    streamed = GenerationSteps(started_ns=100 * MS)
    streamed.stream_to(call)
    for at_ms, tokens in ((130, 6), (140, 7), (160, 8)):
        streamed.add(at_ms * MS, tokens)
    streamed.end()
    call.finish(Response())
    (point,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert (point.count, point.min, point.max) == (2, 0.01, 0.02)
    assert dict(point.attributes) == {**COMMON, "gen_ai.response.model": "smol"}
