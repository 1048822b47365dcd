"""The options `redact_*`, checked when telemetry is set up.

The rules and patterns are loaded only if an option asks for redaction.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig

REDACTION_OPTIONS: Final = (
    "redact_prompts",
    "redact_keys",
    "redact_patterns",
    "redact_mode",
    "redact_hash_key",
)

_logger = logging.getLogger("llamatelemetry.otel.redaction")


def asks_for_redaction(config: LlamaTelemetryConfig) -> bool:
    """Return whether any of the options asks to redact more than headers, passwords and keys."""
    return bool(config.redact_prompts or config.redact_keys or config.redact_patterns)


def with_valid_rules(config: LlamaTelemetryConfig) -> LlamaTelemetryConfig:
    """Return the configuration, with redaction options that can be applied.

    Fail closed: an invalid pattern from the environment is logged, and all prompts and
    completions are redacted.

    Raises:
        ValueError: A pattern given in code is invalid.
        ImportError: A regular expression was given in code, and the package `regex` is missing.
    """
    if not asks_for_redaction(config):
        return config
    from llamatelemetry.otel.redaction.rules import Rules

    try:
        Rules.from_config(config)
    except (ValueError, ImportError) as error:
        given = config.option_value("redact_patterns")
        if given is None or given.origin in ("argument", "config"):
            raise
        _logger.warning("Invalid %s, redacting prompts and completions: %s", given.origin, error)
        valid = [each for each in config.redact_patterns or () if _is_valid(each)]
        return config.replace(redact_prompts=True, redact_patterns=valid)
    return config


def weakened_options(before: LlamaTelemetryConfig, after: LlamaTelemetryConfig) -> set[str]:
    """Return the options whose new value would redact less than now, or differently."""
    if not asks_for_redaction(before):
        return set()
    names = {
        n for n in ("redact_mode", "redact_hash_key") if getattr(before, n) != getattr(after, n)
    }
    if before.redact_prompts and not after.redact_prompts:
        names.add("redact_prompts")
    for name in ("redact_keys", "redact_patterns"):
        if set(getattr(before, name) or ()) - set(getattr(after, name) or ()):
            names.add(name)
    return names


def _is_valid(pattern: str) -> bool:
    from llamatelemetry.otel.redaction.patterns import resolve_patterns

    try:
        resolve_patterns((pattern,))
    except (ValueError, ImportError):
        return False
    return True
