"""Prompt tokens that were processed again although an earlier call had processed them, and why.

The engine's count of cached tokens is exact. How many tokens could have been cached is an estimate
from the characters that two prompts share, so it only decides whether and roughly how much was
lost. For a conversation that only grows, the estimate is exact: the prompt and the output of the
earlier call, less one token.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry.semconv import operations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.local.why.calls import Call, Prompt, Section

_MIN_LOST_TOKENS: Final = 8
_MIN_LOST_SHARE: Final = 0.08
_TOLERANCE: Final = 0.2
_RELATED_SHARE: Final = 0.5
_MIN_PREFIX_SHARE: Final = 0.1
_WHOLE_ANSWER_SHARE: Final = 0.6


class Miss(NamedTuple):
    """Tokens that were processed again, or for the first time, with the cause."""

    tokens: int
    cause: str
    evidence: str


class CacheHistory:
    """The prompts of the calls to one server in one run, in the order of time."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._by_id = {call.span.span_id: call for call in calls}
        self._starts = sorted(call.at + call.go for call in calls if call.processed)
        self._first_seen: dict[Section, Call] = {}
        for call in calls:
            if call.prompt is not None and call.prompt.sections:
                self._first_seen.setdefault(call.prompt.sections[0], call)

    def find_miss(self, call: Call) -> Miss | None:
        """Return the tokens that the cache could have held, or `None` if it held what it could."""
        cached, processed, prompt = call.recorded.cached_tokens, call.processed, call.prompt
        if cached is None or not processed or prompt is None:
            return None
        total = cached + processed
        earlier = self._by_id.get(prompt.reference or "")
        prefix_chars = max(prompt.common_chars, prompt.prefix_chars)
        is_related = _is_related(prompt, earlier)
        if not is_related and prefix_chars < _MIN_PREFIX_SHARE * prompt.chars:
            if cached > total / 2 or self._is_known_to_other_process(call, prompt):
                return None
            return Miss(processed, "first_call", "no earlier call had the start of this prompt")
        if not is_related:
            prompt = replace(prompt, same_chars=prefix_chars)
        shared = _shared_tokens(prompt, total, earlier)
        lost = shared - cached
        if lost <= _MIN_LOST_TOKENS or lost <= _MIN_LOST_SHARE * shared:
            return None
        cause, evidence = self._cause(call, prompt, earlier, cached, processed)
        name = (prompt.reference or prompt.prefix_reference or "")[:6]
        tokens = f"{lost} of about {shared} tokens shared with call {name}"
        return Miss(lost, cause, f"{tokens}: {evidence}")

    def _cause(
        self, call: Call, prompt: Prompt, earlier: Call | None, cached: int, processed: int
    ) -> tuple[str, str]:
        if call.cache_prompt is False:
            return "cache_not_used", "the request set cache_prompt=false"
        prefix_chars = max(prompt.common_chars, prompt.prefix_chars)
        prefix_tokens = (cached + processed) * prefix_chars / prompt.chars
        changed = prompt.first_change
        # One-sided: other prompts may have left more in the cache than the estimate.
        if changed is not None and cached >= (1 - _TOLERANCE) * prefix_tokens - _MIN_LOST_TOKENS:
            if changed.endswith(operations.TOOLS_REORDERED):
                first = changed.removesuffix(operations.TOOLS_REORDERED)
                return "tools_reordered", f"the order of the tools changed, from {first}"
            where = f" at character {prompt.change_at}" if prompt.change_at else ""
            return "section_changed", f"{changed} changed{where}"
        start, since = call.at + call.go, 0.0
        if earlier is not None:
            since = earlier.at + earlier.decoded
            if since > start:
                return "slot_busy", "that call was still running"
        others = bisect_left(self._starts, start) - bisect_right(self._starts, since)
        if others > 0:
            prompts = "1 other prompt" if others == 1 else f"{others} other prompts"
            return "evicted", f"dropped from the cache while {prompts} ran on this server"
        return "unknown", "no other known prompt ran on the server since"

    def _is_known_to_other_process(self, call: Call, prompt: Prompt) -> bool:
        """Return whether another process had sent the first section of this prompt before.

        A process compares a prompt only with its own.
        """
        first = self._first_seen.get(prompt.sections[0]) if prompt.sections else None
        return first is not None and first is not call and first.at < call.at


def _is_related(prompt: Prompt, earlier: Call | None) -> bool:
    """Return whether the prompt is the earlier one, grown or changed, and not another prompt.

    Different conversations can share tools, a system prompt, or a question.
    """
    if prompt.reference is None:
        return False
    before = earlier.prompt.chars if earlier is not None and earlier.prompt else prompt.chars
    return prompt.same_chars >= _RELATED_SHARE * min(before, prompt.chars)


def _shared_tokens(prompt: Prompt, total: int, earlier: Call | None) -> int:
    """Return the tokens that the cache could have held after the earlier call."""
    shared = int(total * min(1.0, prompt.same_chars / prompt.chars))
    if earlier is not None and prompt.first_change is None:
        tokens = earlier.recorded.input_tokens
        if tokens is not None:
            shared = tokens + _repeated_output(prompt, total, earlier)
    return min(shared, total - 1)


def _repeated_output(prompt: Prompt, total: int, earlier: Call) -> int:
    """Return the output tokens of the earlier call that the grown prompt contains.

    The last token of an output is never in the cache. An answer that is much shorter than the
    output was changed, for example by leaving out the reasoning.
    """
    output = (earlier.recorded.output_tokens or 0) - 1
    known = (
        sum(section.section_count for section in earlier.prompt.sections) if earlier.prompt else 0
    )
    if output <= 0 or not known:
        return 0
    before = accumulate((section.section_count for section in prompt.sections), initial=0)
    answer = dict(zip(before, prompt.sections, strict=False)).get(known)
    if answer is None or answer.kind != "assistant":
        return 0
    is_whole = total * answer.chars / prompt.chars >= _WHOLE_ANSWER_SHARE * output
    return output if is_whole else 0
