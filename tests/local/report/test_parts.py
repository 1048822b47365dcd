"""The parts of a call's time: as client and engine measured them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.report.parts import measured_parts
from tests.support.example_records import call

ENGINE = {
    "llamatelemetry.queue_duration": 0.005,
    "gen_ai.prefill_ms": 10.0,
    "gen_ai.decode_ms": 25.0,
}
STREAM = {"gen_ai.request.stream": True}
UNKNOWN = {"gen_ai.ttft_ms": None, "gen_ai.tpot_ms": None}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {**ENGINE, **STREAM, "gen_ai.ttft_ms": 20.0},
            {
                "queue": 5, "before_first_token": 5, "prefill": 10, "decode": 25,
                "after_first_token": 5,
            },
        ),
        # Without a stream, the time to the first token is the engine's own.
        (
            {**ENGINE, "gen_ai.ttft_ms": 15.0},
            {"queue": 5, "prefill": 10, "decode": 25, "outside_engine": 10},
        ),
        (
            {**STREAM, "gen_ai.ttft_ms": 20.0},
            {"before_first_token": 20, "after_first_token": 30},
        ),
        (UNKNOWN, {"unexplained": 50}),
        ({**UNKNOWN, **ENGINE, "gen_ai.decode_ms": 99.0}, {"queue": 5, "prefill": 10, "decode": 35}),
    ],
    ids=["streamed", "not streamed", "client only", "nothing known", "longer than the call"],
)  # fmt: skip
def test_parts_add_up_to_the_duration(
    attributes: dict[str, Any], expected: dict[str, float]
) -> None:
    one = call(1)
    attributes = {**one.attributes, **attributes}
    known = {name: value for name, value in attributes.items() if value is not None}
    [joined] = join_calls([replace(one, attributes=known)])
    found = {name: ms for name, ms, _ in measured_parts(joined).parts}
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)
    assert sum(found.values()) == pytest.approx(joined.duration_ms)
