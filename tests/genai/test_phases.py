"""Durations of queue, prefill and decode, compared with hand-computed values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import EngineTimings, Phases, measure_phases


def timings(prefill_ms: float, decode_ms: float, predicted_tokens: int = 6) -> EngineTimings:
    return EngineTimings(
        prompt_tokens=40,
        prefill_ms=prefill_ms,
        predicted_tokens=predicted_tokens,
        decode_ms=decode_ms,
        is_queue_derivable=True,
    )


def test_stream_queue_ends_with_headers():
    # Sent at 0, headers at 1.5 s, then 250 ms of prefill and 5 further tokens in 1 s.
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=2.8, headers_s=1.5)
    assert phases == Phases(
        prefill_s=0.25,
        decode_s=1.0,
        queue_s=1.5,
        queue_source="header",
        time_per_output_token_s=0.2,
        time_to_first_token_s=1.75,
        request_s=2.75,
    )


def test_plain_response_queue_is_the_remainder():
    # 2 s from request to response, with 0.25 s of prefill and 1 s of decode.
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=2.0, headers_s=None)
    assert phases == Phases(
        prefill_s=0.25,
        decode_s=1.0,
        queue_s=0.75,
        queue_source="remainder",
        time_per_output_token_s=0.2,
        time_to_first_token_s=1.0,
        request_s=2.0,
    )


def test_negative_remainder_is_zero_queue():
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=1.2499, headers_s=None)
    assert phases.queue_s == 0.0
    assert phases.queue_source == "remainder"
    assert phases.time_to_first_token_s == 0.25


def test_immediate_headers_are_zero_queue():
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=5.0, headers_s=0.0)
    assert (phases.queue_s, phases.queue_source) == (0.0, "header")


def test_several_choices_leave_queue_unknown():
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=9.0, headers_s=None, choice_count=2)
    assert phases == Phases(0.25, 1.0, None, None, 0.2)


def test_several_choices_of_stream_have_queue_by_headers():
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=9.0, headers_s=0.5, choice_count=2)
    assert (phases.queue_s, phases.queue_source) == (0.5, "header")


@pytest.mark.parametrize(
    ("predicted_tokens", "per_token_s"), [(0, None), (1, None), (2, 0.9), (4, 0.3), (10, 0.1)]
)
def test_time_per_output_token_excludes_first_token(predicted_tokens, per_token_s):
    # Only tokens after the first one are decoded, so a single token has no rate.
    phases = measure_phases(timings(10.0, 900.0, predicted_tokens), attempt_s=1.0, headers_s=None)
    assert phases.time_per_output_token_s == pytest.approx(per_token_s)


def test_time_per_output_token_agrees_with_real_server():
    # The server reported predicted_per_token_ms 1149.5164.
    phases = measure_phases(timings(0.0, 5747.582), attempt_s=6.0, headers_s=None)
    assert phases.time_per_output_token_s == pytest.approx(1.1495164)


def test_engine_queue_is_used_for_engine_in_process():
    reported = EngineTimings(queue_ms=125.0, prefill_ms=250.0, decode_ms=1000.0)
    phases = measure_phases(reported, attempt_s=9.0, headers_s=None, has_queue=False)
    assert (phases.queue_s, phases.queue_source) == (0.125, "engine")
    assert phases.time_to_first_token_s == 0.375


def test_engine_queue_is_used_instead_of_headers_and_remainder():
    reported = EngineTimings(queue_ms=500.0, prefill_ms=250.0, decode_ms=1000.0, predicted_tokens=6)
    phases = measure_phases(reported, attempt_s=9.0, headers_s=1.5, first_token_s=2.0)
    assert phases == Phases(0.25, 1.0, 0.5, "engine", 0.2, 0.75, 1.75)


def test_queue_is_unknown_if_neither_the_engine_nor_the_client_knows_it():
    reported = EngineTimings(prefill_ms=250.0, decode_ms=1000.0, predicted_tokens=6)
    phases = measure_phases(reported, attempt_s=9.0, headers_s=1.5, first_token_s=2.0)
    assert phases == Phases(0.25, 1.0, None, None, 0.2)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (EngineTimings(queue_ms=500.0), Phases(None, None, 0.5, "engine", None)),
        (EngineTimings(prefill_ms=250.0), Phases(0.25, None, None, None, None)),
        (EngineTimings(decode_ms=90.0), Phases(None, 0.09, None, None, None)),
        (
            EngineTimings(queue_ms=500.0, prefill_ms=250.0, first_token_ms=800.0),
            Phases(0.25, None, 0.5, "engine", None, 0.8),
        ),
    ],
)
def test_each_phase_is_known_or_unknown_by_itself(reported, expected):
    assert measure_phases(reported, attempt_s=9.0, headers_s=1.5) == expected


def test_inexact_bounds_give_neither_sums_nor_time_per_token():
    reported = EngineTimings(
        *(40, 250.0, 6, 1000.0), queue_ms=500.0, has_exact_bounds=False, provider="groq"
    )
    phases = measure_phases(reported, attempt_s=9.0, headers_s=None)
    assert phases == Phases(0.25, 1.0, 0.5, "engine", None)


def test_queue_of_a_stream_without_headers_ends_before_the_prefill_of_the_first_token():
    # The first token came after 1 s. The prefill took 0.25 s of it. Then the application was slow.
    phases = measure_phases(
        timings(250.0, 1000.0), attempt_s=9.0, headers_s=None, first_token_s=1.0
    )
    assert (phases.queue_s, phases.queue_source) == (0.75, "remainder")
    assert (phases.time_to_first_token_s, phases.request_s) == (1.0, 2.0)


def test_first_token_that_the_engine_held_back_is_no_queue():
    # 2 s in all, with 0.25 s of prefill and 1 s of decode. The first token came near the end.
    phases = measure_phases(
        timings(250.0, 1000.0), attempt_s=2.0, headers_s=None, first_token_s=1.9
    )
    assert (phases.queue_s, phases.queue_source) == (0.75, "remainder")
    assert phases.request_s == 2.0


def test_engine_of_a_single_caller_has_an_empty_queue():
    phases = measure_phases(timings(250.0, 1000.0), attempt_s=9.0, headers_s=1.5, has_queue=False)
    assert phases == Phases(0.25, 1.0, 0.0, None, 0.2, 0.25, 1.25)


@pytest.mark.parametrize(("decoded_tokens", "per_token_s"), [(4, 0.25), (1, 1.0), (0, None)])
def test_decoded_tokens_of_the_engine_replace_the_output_tokens(decoded_tokens, per_token_s):
    reported = EngineTimings(decode_ms=1000.0, predicted_tokens=9, decoded_tokens=decoded_tokens)
    phases = measure_phases(reported, attempt_s=9.0, headers_s=None)
    assert phases.time_per_output_token_s == per_token_s


SECONDS = st.floats(0, 1e6)


@given(
    prefill_ms=st.floats(0, 1e9),
    decode_ms=st.floats(0, 1e9),
    tokens=st.integers(0, 10**6),
    attempt_s=SECONDS,
    headers_s=st.none() | SECONDS,
    choice_count=st.integers(1, 4),
)
def test_phases_are_not_negative_and_add_up(
    *, prefill_ms, decode_ms, tokens, attempt_s, headers_s, choice_count
):
    phases = measure_phases(
        timings(prefill_ms, decode_ms, tokens),
        attempt_s=attempt_s,
        headers_s=headers_s,
        choice_count=choice_count,
    )
    assert (phases.queue_s is None) == (phases.queue_source is None)
    assert (phases.queue_s is None) == (headers_s is None and choice_count > 1)
    assert phases.time_per_output_token_s is None or phases.time_per_output_token_s >= 0
    if phases.queue_s is not None:
        assert phases.queue_s >= 0
        assert phases.time_to_first_token_s == phases.queue_s + phases.prefill_s
        assert phases.request_s == pytest.approx(phases.time_to_first_token_s + phases.decode_s)
        if phases.queue_source == "remainder" and phases.queue_s > 0:
            assert phases.request_s == pytest.approx(attempt_s)
