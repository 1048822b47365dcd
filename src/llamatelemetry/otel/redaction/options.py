"""The options `redact_*`, checked before anything is set up with them."""

from __future__ import annotations

import logging
from typing import Final

from llamatelemetry.config import LlamaTelemetryConfig

from .patterns import resolve
from .rules import Rules

REDACTION_OPTIONS: Final = (
    "redact_prompts",
    "redact_keys",
    "redact_patterns",
    "redact_mode",
    "redact_hash_key",
)

_logger = logging.getLogger("llamatelemetry.otel.redaction")


def checked(config: LlamaTelemetryConfig) -> LlamaTelemetryConfig:
    """The configuration with patterns that can be matched.

    From the environment, a pattern that cannot be used is one warning, and what was said is
    redacted in its stead: rather too much than nothing.

    Raises:
        ValueError: such a pattern given in code.
        ImportError: likewise, because the package `regex` is missing.
    """
    try:
        Rules.from_config(config)
    except (ValueError, ImportError) as error:
        given = config.given("redact_patterns")
        if given is None or given.origin in ("argument", "config"):
            raise
        _logger.warning("%s: %s; prompts and completions are redacted", given.origin, error)
        usable = [each for each in config.redact_patterns or () if _is_usable(each)]
        return config.replace(redact_prompts=True, redact_patterns=usable)
    return config


def loosened(before: LlamaTelemetryConfig, after: LlamaTelemetryConfig) -> set[str]:
    """The options by which less would be redacted, or otherwise, than is being redacted."""
    if Rules.from_config(before) is None:
        return set()
    names = {n for n in ("redact_mode", "redact_hash_key") if _differ(n, before, after)}
    if before.redact_prompts and not after.redact_prompts:
        names.add("redact_prompts")
    for name in ("redact_keys", "redact_patterns"):
        if set(getattr(before, name) or ()) - set(getattr(after, name) or ()):
            names.add(name)
    return names


def _differ(name: str, one: LlamaTelemetryConfig, other: LlamaTelemetryConfig) -> bool:
    return getattr(one, name) != getattr(other, name)


def _is_usable(pattern: str) -> bool:
    try:
        resolve((pattern,))
    except (ValueError, ImportError):
        return False
    return True
