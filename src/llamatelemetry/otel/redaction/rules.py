"""Redaction rules, from the arguments of a processor or from the options `redact_*`."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from llamatelemetry.otel.redaction.attribute_names import NameClassifier
from llamatelemetry.otel.redaction.patterns import BUILT_IN, GROUPS, Pattern, resolve_patterns

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig

REDACTION_OPTIONS: Final = (
    "redact_prompts",
    "redact_keys",
    "redact_patterns",
    "redact_mode",
    "redact_hash_key",
)
DEFAULT_REPLACEMENT: Final = "[REDACTED]"
# Long enough that two texts of one system do not get the same hash, short enough to read.
_HASH_CHARS: Final = 32
_HASH: Final = re.compile(rf"\[HMAC:[0-9a-f]{{{_HASH_CHARS}}}\]")

_logger = logging.getLogger("llamatelemetry.otel.redaction")


@dataclass(frozen=True)
class Rules:
    """The data to redact and its replacement.

    Headers with secrets, passwords and keys in URLs are always redacted.

    Attributes:
        redact_prompts: Whether prompts, completions, and arguments and results of tools are
            redacted.
        redact_keys: Names of attributes, and of fields in maps and JSON, exact or with `*`.
        patterns: Kinds of text that are redacted in all values.
        replacement: Text that replaces redacted text.
        hash_key: Key of the HMAC that replaces redacted text instead; `None` for `replacement`.
    """

    redact_prompts: bool = True
    redact_keys: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    replacement: str = DEFAULT_REPLACEMENT
    hash_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        redact_prompts: bool = True,
        redact_keys: str | Sequence[str] = (),
        patterns: str | re.Pattern[str] | Iterable[str | re.Pattern[str]] = (),
        replacement: str = DEFAULT_REPLACEMENT,
        *,
        hash_key: str | None = None,
    ) -> Rules:
        """Return rules from the arguments of a user. A single text stands for a list of one.

        Raises:
            ValueError: A pattern is invalid.
            TypeError: A key or the replacement is not a string.
            ImportError: A regular expression was given, and the package `regex` is missing.
        """
        keys = (redact_keys,) if isinstance(redact_keys, str) else tuple(redact_keys)
        texts = (patterns,) if isinstance(patterns, (str, re.Pattern)) else tuple(patterns)
        for name, values in (("redact_keys", keys), ("replacement", (replacement,))):
            for value in values:
                if type(value) is not str:
                    raise TypeError(f"{name} must be text, got {value!r}")
        return cls(
            bool(redact_prompts),
            keys,
            resolve_patterns(texts),
            replacement,
            hash_key.encode() if hash_key else None,
        )

    @classmethod
    def from_config(cls, config: LlamaTelemetryConfig) -> Rules | None:
        """Return the rules of the options `redact_*`, `None` if all of them are off.

        Raises:
            ValueError: A pattern is invalid, or `redact_mode=hash` has no key.
            ImportError: A regular expression was given, and the package `regex` is missing.
        """
        if not (config.redact_prompts or config.redact_keys or config.redact_patterns):
            return None
        if config.redact_mode == "hash" and not config.redact_hash_key:
            raise ValueError(
                "redact_mode=hash needs redact_hash_key (LLAMATELEMETRY_REDACT_HASH_KEY): "
                "without a key, anyone can hash likely prompts and compare"
            )
        return cls.of(
            bool(config.redact_prompts),
            config.redact_keys or (),
            config.redact_patterns or (),
            hash_key=config.redact_hash_key if config.redact_mode == "hash" else None,
        )

    @cached_property
    def names(self) -> NameClassifier:
        """The classifier of attributes by name."""
        return NameClassifier(self.redact_keys)

    @cached_property
    def text_patterns(self) -> tuple[Pattern, ...]:
        """The patterns for every text."""
        always = (BUILT_IN["url_credentials"],)
        return tuple(dict.fromkeys((*self.patterns, *always)))

    @cached_property
    def error_patterns(self) -> tuple[Pattern, ...]:
        """The patterns for error messages, in which libraries quote keys."""
        return tuple(dict.fromkeys((*self.patterns, *GROUPS["secrets"])))

    def replacement_for(self, text: str) -> str:
        """Return the replacement for a text. A hash from earlier redaction stays as it is."""
        if self.hash_key is None:
            return self.replacement
        if _HASH.fullmatch(text):
            return text
        digest = hmac.new(self.hash_key, text.encode(errors="replace"), hashlib.sha256)
        return f"[HMAC:{digest.hexdigest()[:_HASH_CHARS]}]"


def with_valid_rules(config: LlamaTelemetryConfig) -> LlamaTelemetryConfig:
    """Return the configuration, with redaction options that can be applied.

    Fail closed: an invalid pattern from the environment is logged, and all prompts and
    completions are redacted.

    Raises:
        ValueError: A pattern given in code is invalid.
        ImportError: A regular expression was given in code, and the package `regex` is missing.
    """
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
    if Rules.from_config(before) is None:
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
    try:
        resolve_patterns((pattern,))
    except (ValueError, ImportError):
        return False
    return True
