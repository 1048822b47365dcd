"""Content that cannot be read costs only itself: the counts beside it are recorded."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import (
    Accumulator,
    ChatAccumulator,
    LlamaCppAccumulator,
    ResponsesAccumulator,
    internal_errors,
)


class UnreadableText(str):
    """A text that raises when it is read."""

    def __getitem__(self, _index: Any) -> str:
        raise OSError("closed")


CHAT = {
    "id": "c-1",
    "model": "smol",
    "choices": [
        {"index": 0, "delta": {"content": UnreadableText("Hi")}, "finish_reason": "stop"},
        {"index": 1, "delta": {"content": "Hi"}, "finish_reason": "length"},
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}
NATIVE = {
    "content": UnreadableText("Hi"),
    "index": 0,
    "model": "smol",
    "stop_type": "eos",
    "tokens_evaluated": 12,
    "tokens_predicted": 3,
}
RESPONSES = {
    "type": "response.completed",
    "response": {
        "id": "r-1",
        "model": "smol",
        "status": "completed",
        "usage": {"input_tokens": 12, "output_tokens": 3},
    },
}
UNREADABLE_DELTA = {"type": "response.output_text.delta", "delta": UnreadableText("Hi")}


@pytest.mark.parametrize(
    ("accumulator", "chunks", "reasons"),
    [
        (ChatAccumulator(100), [CHAT], ("stop", "length")),
        (LlamaCppAccumulator(1, 100), [NATIVE], ("stop",)),
        (ResponsesAccumulator(100), [UNREADABLE_DELTA, RESPONSES], ("stop",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, object) else "",
)
def test_unreadable_content_costs_no_counts(
    accumulator: Accumulator, chunks: list[Any], reasons: tuple[str, ...]
) -> None:
    internal_errors.set_strict(False)
    for chunk in chunks:
        accumulator.add(chunk)
    response = accumulator.response()
    assert response.model == "smol"
    assert response.finish_reasons == reasons
    assert (response.usage.input_tokens, response.usage.output_tokens) == (12, 3)
