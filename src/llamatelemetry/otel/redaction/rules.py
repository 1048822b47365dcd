"""What is to be redacted, and what stands in its place."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from .content import Names
from .patterns import BUILT_IN, GROUPS, Pattern, resolve

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig

DEFAULT_REPLACEMENT = "[REDACTED]"
# Long enough that two texts of one system never share it, short enough to read.
_HASH_CHARS = 32
_HASH = re.compile(rf"\[HMAC:[0-9a-f]{{{_HASH_CHARS}}}\]")


@dataclass(frozen=True)
class Rules:
    """What is redacted. Headers, passwords and keys in URLs are, whatever the rules say.

    Attributes:
        redact_prompts: whether all that was said to and by a model and its tools is.
        redact_keys: names of attributes, and of fields in maps and JSON, exact or with `*`.
        patterns: kinds of text, wherever they are.
        replacement: stands in the place of what was redacted.
        hash_key: with it, what was redacted becomes its HMAC under this key instead.
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
        """Rules from what a user gives; a single text is taken for a list of one.

        Raises:
            ValueError: a pattern that is none.
            TypeError: keys or a replacement that are no text.
            ImportError: patterns of the user's own without the package that matches them.
        """
        keys = (redact_keys,) if isinstance(redact_keys, str) else tuple(redact_keys)
        texts = (patterns,) if isinstance(patterns, (str, re.Pattern)) else tuple(patterns)
        if not {type(each) for each in (*keys, replacement)} <= {str}:
            raise TypeError("redact_keys and replacement take text, such as redact_keys=['user.*']")
        return cls(
            bool(redact_prompts),
            keys,
            resolve(texts),
            replacement,
            hash_key.encode() if hash_key else None,
        )

    @classmethod
    def from_config(cls, config: LlamaTelemetryConfig) -> Rules | None:
        """The rules of the options `redact_*`; None when they ask for nothing.

        Raises:
            ValueError: a pattern that is none, or `redact_mode=hash` without a key.
            ImportError: as `of`.
        """
        if not (config.redact_prompts or config.redact_keys or config.redact_patterns):
            return None
        if config.redact_mode == "hash" and not config.redact_hash_key:
            raise ValueError(
                "redact_mode=hash needs redact_hash_key (LLAMATELEMETRY_REDACT_HASH_KEY): "
                "without a key, anybody can hash likely prompts and compare"
            )
        return cls.of(
            bool(config.redact_prompts),
            config.redact_keys or (),
            config.redact_patterns or (),
            hash_key=config.redact_hash_key if config.redact_mode == "hash" else None,
        )

    @cached_property
    def names(self) -> Names:
        """Tells by its name what an attribute holds."""
        return Names(self.redact_keys)

    @cached_property
    def in_texts(self) -> tuple[Pattern, ...]:
        """What is looked for in every text."""
        always = (BUILT_IN["url_credentials"],)
        return tuple(dict.fromkeys((*self.patterns, *always)))

    @cached_property
    def in_errors(self) -> tuple[Pattern, ...]:
        """What is looked for in the texts of errors: libraries quote keys there."""
        return tuple(dict.fromkeys((*self.patterns, *GROUPS["secrets"])))

    def instead_of(self, text: str) -> str:
        """What stands in the place of this text. What is a hash already stays the same one."""
        if self.hash_key is None:
            return self.replacement
        if _HASH.fullmatch(text):
            return text
        digest = hmac.new(self.hash_key, text.encode(errors="replace"), hashlib.sha256)
        return f"[HMAC:{digest.hexdigest()[:_HASH_CHARS]}]"
