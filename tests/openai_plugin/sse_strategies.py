"""Hypothesis strategies for valid and invalid event streams, as bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.support import payloads
from tests.support.json_strategies import REPLIES, TIMINGS

# Characters of two, three and four bytes in UTF-8, a zero-width joiner, and other line separators.
_CONTENT = st.text(st.sampled_from('aé漢🦙\u200d\u2028\x85\n \\"'), max_size=4)
_ODD_CHOICES = st.sampled_from(
    [
        {"choices": None},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {"a": 1}}}]}}]},
        {"choices": [{"index": None, "delta": {"content": 7}, "finish_reason": 3}]},
        {"choices": [], "usage": payloads.USAGE},
        {"choices": [], "usage": None},
        {"prompt_progress": {"total": 9, "processed": 4}},
    ]
)
_KINDS = st.sampled_from(
    [
        *("response.created", "response.completed", "response.failed", "response.in_progress"),
        *("response.output_item.done", "response.output_text.delta", "error", "", ".delta"),
    ]
)
_REST = st.fixed_dictionaries(
    {},
    optional={
        "response": st.one_of(
            st.builds(payloads.response, status=REPLIES, output=REPLIES), REPLIES
        ),
        "item": st.one_of(st.just({"type": "compaction"}), REPLIES),
        "delta": REPLIES,
        "usage": REPLIES,
        "timings": TIMINGS,
        "code": REPLIES,
    },
)
_CHUNKS: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda text: payloads.chunk({"content": text}), _CONTENT),
    st.builds(lambda text: payloads.chunk({"reasoning_content": text}), _CONTENT),
    st.builds(lambda timings: payloads.chunk({}, "stop", timings=timings), TIMINGS),
    st.builds(lambda odd: payloads.chunk({}) | odd, _ODD_CHOICES),
    st.builds(payloads.completion_chunks).flatmap(st.sampled_from),
    st.sampled_from(payloads.response_events()),
    st.sampled_from([*payloads.image_events("image_edit"), *payloads.transcript_events()]),
    st.builds(lambda kind, rest: {"type": kind, **rest}, _KINDS, _REST),
    REPLIES,
)
_ERRORS = st.sampled_from(
    [
        {"error": {"message": "slot is gone", "type": "server_error", "code": 500}},
        {"error": "words"},
        {"error": {"message": None}},
        {"error": {}},
    ]
)


def _data(value: Any, ascii_only: bool, indent: int | None) -> list[bytes]:
    spelled = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return [b"data: " + line.encode("utf-8", "surrogatepass") for line in spelled.split("\n")]


_EVENTS: st.SearchStrategy[list[bytes]] = st.one_of(
    st.builds(_data, _CHUNKS, st.booleans(), st.sampled_from([None, None, 1])),
    st.builds(_data, _CHUNKS, st.booleans(), st.none()),
    st.builds(lambda text: [b": " + text.encode()], _CONTENT.map(lambda text: text.split("\n")[0])),
    st.builds(
        lambda name, value: [b"event: " + name, *_data(value, True, None)],
        st.sampled_from([b"error", b"ping", b"thread.run", b"response.created", b""]),
        st.one_of(_ERRORS, _CHUNKS),
    ),
    st.builds(lambda value: _data(value, True, None), _ERRORS),
    st.sampled_from(
        [
            [b": ping"],
            [b":"],
            [b"id: 7", b"retry: 10"],
            [b"retry: soon"],
            [b"data"],
            [b"data:"],
            [b'data:{"no":"space"}'],
            [b"data: no json"],
            [b"nonsense"],
            [b"data: [DONE]"],
        ]
    ),
    st.binary(max_size=12).map(lambda garbage: [garbage]),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Generate streams with any line ends and events, with or without [DONE] and data after it."""
    line_end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    events = draw(st.lists(_EVENTS, max_size=6))
    ends = [[b"data: [DONE]"]] if draw(st.booleans()) else []
    after = draw(st.lists(_EVENTS, max_size=2)) if draw(st.booleans()) else []
    mark = "\ufeff".encode() if draw(st.integers(0, 9)) == 0 else b""
    body = b"".join(
        line_end.join(lines) + line_end + line_end for lines in [*events, *ends, *after]
    )
    return mark + (body if draw(st.booleans()) else body.rstrip(b"\r\n"))


# Split into bytes, not split, or split at any position, also twice at the same one.
CUTS = st.one_of(
    st.just(None),
    st.just(()),
    st.lists(st.integers(0, 4000), max_size=20).map(tuple),
)
