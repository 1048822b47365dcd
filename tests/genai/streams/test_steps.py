"""The steps of a generation, and the phases they come to, worked out by hand."""

from __future__ import annotations

from llamatelemetry.genai import EngineTimings, GenerationSteps, measure_phases

MS = 1_000_000


def steps(*ended: tuple[int, int]) -> GenerationSteps:
    made = GenerationSteps(started_ns=100 * MS)
    for at_ms, tokens in ended:
        made.add(at_ms * MS, tokens)
    return made


def test_the_first_token_ends_the_prefill_and_the_last_the_decoding():
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


def test_in_a_batch_a_token_takes_what_one_sequence_waits_for_it():
    # Four sequences of three tokens each; decoding brought two to each.
    timings = steps((130, 6), (140, 7), (160, 8)).timings(
        "huggingface", input_tokens=20, output_tokens=12
    )
    assert timings is not None
    phases = measure_phases(timings, attempt_s=0.07, headers_s=None, has_queue=False)
    assert phases.time_per_output_token_s == 0.015
    assert phases.request_s == 0.06


def test_a_step_may_bring_several_tokens():
    made = steps((130, 6), (140, 9), (150, 11))
    assert made.tokens_per_second == 250
    timings = made.timings("huggingface", input_tokens=None, output_tokens=None)
    assert timings is not None
    assert timings.decoded_tokens == 5
    assert (timings.prompt_tokens, timings.predicted_tokens) == (None, None)


def test_without_a_token_nothing_is_known():
    assert steps().timings("huggingface", input_tokens=5, output_tokens=0) is None
    assert steps().tokens_per_second is None
    assert steps((130, 6)).tokens_per_second is None
