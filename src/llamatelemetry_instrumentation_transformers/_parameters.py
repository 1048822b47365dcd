"""The effective settings of a generation as span attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import as_float, as_int, as_list, as_str
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.util.types import AttributeValue


def read_settings(config: Any, prefix: int | None, assistant: Any) -> dict[str, AttributeValue]:
    """Return the settings of a `GenerationConfig` that `generate` has completed.

    Args:
        config: Settings.
        prefix: Number of tokens that each row starts with; `max_length` includes them.
        assistant: Model that drafts tokens, if any.
    """
    return {
        name: value for name, value in _settings(config, prefix, assistant) if value is not None
    }


def _settings(
    config: Any, prefix: int | None, assistant: Any
) -> Iterator[tuple[str, AttributeValue | None]]:
    longest = as_int(getattr(config, "max_length", None))
    if longest is not None and prefix is not None:
        yield names.GEN_AI_REQUEST_MAX_TOKENS, longest - prefix
    if getattr(config, "do_sample", None):
        yield names.GEN_AI_REQUEST_TEMPERATURE, as_float(config.temperature)
        yield names.GEN_AI_REQUEST_TOP_P, as_float(config.top_p)
        yield names.GEN_AI_REQUEST_TOP_K, as_int(config.top_k) or None
    stop_strings = getattr(config, "stop_strings", None)
    stops = [stop_strings] if isinstance(stop_strings, str) else as_list(stop_strings)
    yield names.GEN_AI_REQUEST_STOP_SEQUENCES, tuple(s for s in stops if as_str(s)) or None
    answers = as_int(getattr(config, "num_return_sequences", None)) or 1
    yield names.GEN_AI_REQUEST_CHOICE_COUNT, answers if answers != 1 else None
    beams = as_int(getattr(config, "num_beams", None)) or 1
    yield names.GENERATION_BEAMS, beams if beams != 1 else None
    penalty = as_float(getattr(config, "repetition_penalty", None))
    yield names.GENERATION_REPETITION_PENALTY, penalty if penalty != 1 else None
    mode = config.get_generation_mode(assistant)
    yield names.GENERATION_MODE, str(getattr(mode, "value", mode))
