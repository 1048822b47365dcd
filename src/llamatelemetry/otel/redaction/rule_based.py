"""What a processor that redacts is made of, whatever it processes: its rules, and what applies them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from .redaction import Redactor
from .resources import ResourceCleaner
from .rules import DEFAULT_REPLACEMENT, Rules

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig


class RuleBased:
    """Redacts by rules, which come from a user's arguments, from options, or as they are."""

    def __init__(
        self,
        redact_prompts: bool = True,
        redact_keys: str | Sequence[str] = (),
        patterns: str | re.Pattern[str] | Iterable[str | re.Pattern[str]] = (),
        replacement: str = DEFAULT_REPLACEMENT,
    ) -> None:
        self._use(Rules.of(redact_prompts, redact_keys, patterns, replacement))

    @classmethod
    def from_config(cls, config: LlamaTelemetryConfig) -> Self | None:
        """One with the rules of the options `redact_*`; None when they ask for nothing."""
        rules = Rules.from_config(config)
        return None if rules is None else cls.from_rules(rules)

    @classmethod
    def from_rules(cls, rules: Rules) -> Self:
        """One with these rules."""
        processor = cls.__new__(cls)
        processor._use(rules)
        return processor

    def _use(self, rules: Rules) -> None:
        self.rules = rules
        self._redactor = Redactor(rules)
        self._resources = ResourceCleaner(self._redactor)
