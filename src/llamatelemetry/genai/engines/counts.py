"""Token counts of a response that go with its timings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llamatelemetry.genai.json_access import as_count, as_fields

if TYPE_CHECKING:
    from collections.abc import Mapping


class Counts(NamedTuple):
    """Token counts; `None` is unknown.

    Attributes:
        evaluated: Prompt tokens without the cached ones; `None` if it is not known how many these are.
        cached: Prompt tokens from the cache.
        output: Output tokens.
    """

    evaluated: int | None
    cached: int | None
    output: int | None


def counts_of(usage: Mapping[str, Any], *, is_zero_cached_known: bool = True) -> Counts:
    """Return the counts in a usage object of chat completions or Responses.

    Args:
        usage: The usage object.
        is_zero_cached_known: Whether 0 cached tokens mean that there were none. Some servers write 0
            if they do not count them.
    """
    prompt = as_count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = as_count(usage.get("completion_tokens", usage.get("output_tokens")))
    details = as_fields(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    cached = as_count(details.get("cached_tokens"))
    if cached == 0 and not is_zero_cached_known:
        cached = None
    if prompt is None or cached is None or cached > prompt:
        return Counts(None, None, output)
    return Counts(prompt - cached, cached, output)
