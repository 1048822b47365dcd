"""Parts of a call add up to its duration and are never negative, whatever was recorded."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.local.recording import Recording
from llamatelemetry.local.records import SpanRecord
from llamatelemetry.local.why import CAUSE_TITLES, PART_TITLES, explain
from llamatelemetry.semconv import attributes as names
from tests.support.explained_calls import START_NS

_seconds = st.one_of(
    st.floats(0, 3), st.floats(allow_nan=True), st.integers(-1, 3), st.just("1"), st.none()
)
_counts = st.one_of(st.integers(-1, 3000), st.booleans(), st.none(), st.text(max_size=3))
_many_seconds = st.one_of(st.lists(_seconds, max_size=4), st.just("text"))
_triples = st.lists(
    st.one_of(
        st.builds("{}:{}:{}".format, st.integers(0, 900), st.integers(0, 900), st.integers(0, 600)),
        st.text(max_size=8),
    ),
    max_size=4,
)
_ids = st.sampled_from([f"{number:016x}" for number in range(6)])
_ATTRIBUTES: dict[str, st.SearchStrategy[Any]] = {
    names.GEN_AI_PROVIDER_NAME: st.sampled_from(["llama_cpp", "vllm", "openai"]),
    names.GEN_AI_REQUEST_STREAM: st.booleans(),
    names.GEN_AI_RESPONSE_MODEL: st.sampled_from(["m", "n"]),
    names.SERVER_ADDRESS: st.sampled_from(["localhost", "far", 7]),
    names.SERVER_PORT: st.sampled_from([80, "80"]),
    names.SERVER_SLOTS: _counts,
    names.GEN_AI_USAGE_INPUT_TOKENS: st.integers(0, 3000),
    names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: st.integers(0, 3000),
    names.GEN_AI_USAGE_OUTPUT_TOKENS: st.integers(0, 300),
    names.PROMPT_TOKENS: _counts,
    names.QUEUE_DURATION: _seconds,
    names.QUEUE_SOURCE: st.sampled_from(["header", "engine", "remainder", "other"]),
    names.PREFILL_MS: st.floats(0, 2000),
    names.DECODE_MS: st.floats(0, 2000),
    names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: _seconds,
    names.CLIENT_SENT: _seconds,
    names.CLIENT_HEADERS: _seconds,
    names.CLIENT_LAST_DATA: _seconds,
    names.CLIENT_CONNECT: _many_seconds,
    names.CLIENT_ATTEMPTS: _triples,
    names.CLIENT_LAST_ATTEMPT: _seconds,
    names.CLIENT_READ_DELAY: _many_seconds,
    names.CLIENT_GAPS: _triples,
    names.LOOP_BLOCKED: _many_seconds,
    names.PROMPT_CHARS: _counts,
    names.PROMPT_SECTIONS: _triples,
    names.PROMPT_REFERENCE: _ids,
    names.PROMPT_COMMON_CHARS: _counts,
    names.PROMPT_SAME_CHARS: _counts,
    names.PROMPT_FIRST_CHANGE: st.sampled_from(["tools[0]", "messages[0] system"]),
    names.REQUEST_CACHE_PROMPT: st.booleans(),
    names.SERVER_CPU: _many_seconds,
    names.SERVER_RUN_DELAY: _many_seconds,
    names.SERVER_STOPPED: _many_seconds,
    names.SERVER_THROTTLED: _many_seconds,
    names.SERVER_PROCESS_START: _seconds,
    names.ERROR_TYPE: st.just("timeout"),
}


@st.composite
def _spans(draw: st.DrawFn) -> SpanRecord:
    found = draw(st.fixed_dictionaries({}, optional=_ATTRIBUTES))
    start_ns = START_NS + draw(st.integers(0, 5_000_000_000))
    return SpanRecord(
        trace_id=f"{draw(st.integers(0, 3)):032x}",
        span_id=draw(_ids),
        parent_span_id=None,
        name="chat",
        kind=3,
        start_ns=start_ns,
        end_ns=start_ns + draw(st.integers(0, 4_000_000_000)),
        attributes={names.GEN_AI_OPERATION_NAME: "chat", **found},
        status=draw(st.sampled_from([0, 2])),
        resource={"process.pid": draw(st.integers(1, 2))},
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(_spans(), max_size=12))
def test_parts_add_up_whatever_was_recorded(spans: list[SpanRecord]):
    explanation = explain(Recording(spans=spans))

    for call in explanation.calls:
        assert abs(sum(part.ms for part in call.parts) - call.duration_ms) < 0.01
        assert all(part.ms > 0 and part.excess_ms <= part.ms for part in call.parts)
        assert all(part.cause is None or part.cause in CAUSE_TITLES for part in call.parts)
        order = [list(PART_TITLES).index(part.name) for part in call.parts]
        assert order == sorted(set(order))
        assert call.top_cause in {*PART_TITLES, "normal", "unknown"}
        assert call.sentence.endswith(".")
    total = sum(ms for name, ms in explanation.totals.items() if name != "application")
    assert abs(total - explanation.duration_ms) < 0.01 * (1 + len(spans))
    json.dumps(explanation.to_dict(), allow_nan=False)
    assert str(explanation)
