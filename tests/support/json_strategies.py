"""Strategies for arbitrary JSON of a server, with extreme numbers and invalid text."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

INTEGERS = st.one_of(
    st.integers(),
    st.sampled_from([2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**400]),
)
FLOATS = st.floats()  # Python's JSON parser accepts NaN and the infinities.
# JSON can contain lone surrogates ("\ud800"), UTF-8 cannot.
TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["\ud800", "half \udfff", "/models/\ud800.gguf", "\0"])
)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS)


def json_values(keys: st.SearchStrategy[str] = TEXTS, max_leaves: int = 12) -> Any:
    """Return a strategy for JSON values whose objects have keys from `keys`."""
    return st.recursive(
        SCALARS,
        lambda children: st.one_of(
            st.lists(children, max_size=4), st.dictionaries(keys, children, max_size=5)
        ),
        max_leaves=max_leaves,
    )


# Field names of responses, so that arbitrary values are drawn for fields that are parsed.
REPLY_FIELDS = st.sampled_from(
    [
        *("id", "model", "choices", "usage", "timings", "service_tier", "system_fingerprint"),
        *("finish_reason", "index", "delta", "text", "message", "content", "role", "tool_calls"),
        *("prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"),
        *("completion_tokens_details", "reasoning_tokens", "audio_tokens", "cache_write_tokens"),
        *("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n", "draft_n"),
        *("draft_n_accepted", "type", "response", "output", "item", "status", "error", "code"),
        *("input_tokens", "output_tokens", "input_tokens_details", "incomplete_details", "reason"),
        *("conversation", "data", "x_groq", "cached_tokens_details", "text_tokens"),
    ]
)
_MILLISECONDS = st.one_of(
    st.floats(0, 1e6), st.sampled_from([1e18, 1e300, math.inf, math.nan, -0.0]), INTEGERS
)
_COUNTS = st.one_of(st.integers(0, 10**6), SCALARS)
TIMINGS = st.fixed_dictionaries(
    {"prompt_n": _COUNTS, "prompt_ms": _MILLISECONDS, "predicted_n": _COUNTS}
    | {"predicted_ms": _MILLISECONDS},
    optional={"cache_n": _COUNTS, "draft_n": _COUNTS, "draft_n_accepted": _COUNTS},
)
_JSON = json_values(REPLY_FIELDS, max_leaves=8)
REPLIES = st.one_of(
    json_values(),
    _JSON,
    st.fixed_dictionaries(
        {},
        optional={
            "id": _JSON,
            "model": st.one_of(TEXTS, _JSON),
            "choices": st.one_of(
                _JSON,
                st.lists(
                    st.fixed_dictionaries(
                        {}, optional={"index": _JSON, "finish_reason": _JSON, "delta": _JSON}
                    ),
                    max_size=3,
                ),
            ),
            "usage": st.one_of(
                _JSON,
                st.fixed_dictionaries(
                    {"prompt_tokens": _COUNTS, "completion_tokens": _COUNTS},
                    optional={"prompt_tokens_details": _JSON, "completion_tokens_details": _JSON},
                ),
            ),
            "timings": st.one_of(_JSON, TIMINGS),
            "service_tier": _JSON,
        },
    ),
)


def exportable(value: Any) -> bool:
    """Return whether OTLP can encode an attribute value: UTF-8, 64 bits, arrays of one type."""
    if isinstance(value, str):
        return value.isascii() or not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (list, tuple)) and all(
        isinstance(v, str) and exportable(v) for v in value
    )
