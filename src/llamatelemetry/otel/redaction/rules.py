"""Redaction rules, from the arguments of a processor or from the options `redact_*`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from llamatelemetry.otel.redaction.attribute_names import NameClassifier
from llamatelemetry.otel.redaction.options import asks_for_redaction
from llamatelemetry.otel.redaction.patterns import BUILT_IN, GROUPS, Pattern, resolve_patterns

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig

DEFAULT_REPLACEMENT: Final = "[REDACTED]"
# Long enough that two texts of one system do not get the same hash, short enough to read.
_HASH_CHARS: Final = 32
_HASH: Final = re.compile(rf"\[HMAC:[0-9a-f]{{{_HASH_CHARS}}}\]")


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
        if not asks_for_redaction(config):
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
        return NameClassifier(self.redact_keys, finds_content=self.redact_prompts)

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
        import hashlib
        import hmac

        digest = hmac.new(self.hash_key, text.encode(errors="replace"), hashlib.sha256)
        return f"[HMAC:{digest.hexdigest()[:_HASH_CHARS]}]"
