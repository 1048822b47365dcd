"""Base class of the redacting processors, and redaction of the resources and scopes they share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from llamatelemetry._limits import Limit
from llamatelemetry.otel.redaction.redactor import Redaction, Redactor
from llamatelemetry.otel.redaction.rules import DEFAULT_REPLACEMENT, Rules

if TYPE_CHECKING:
    from llamatelemetry.config import LlamaTelemetryConfig

_LIMIT: Final = Limit("redacted_resources", 128, "Resources, and redacted copies of them")


class RedactionProcessor:
    """A processor that redacts by rules: from its arguments, from a configuration, or given."""

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
        """Return a processor with the rules of the options `redact_*`, `None` if all are off."""
        rules = Rules.from_config(config)
        return None if rules is None else cls.from_rules(rules)

    @classmethod
    def from_rules(cls, rules: Rules) -> Self:
        """Return a processor with these rules."""
        processor = cls.__new__(cls)
        processor._use(rules)
        return processor

    def _use(self, rules: Rules) -> None:
        self.rules = rules
        self._redactor = Redactor(rules)
        self._resources = ResourceRedactor(self._redactor)


class ResourceRedactor:
    """Redacts each resource once and caches the result, because many spans share a resource."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        # The key is the identity. The value holds the resource too, so that the garbage
        # collector cannot free it and reuse its identity.
        self._cache: dict[int, tuple[Resource, Resource]] = {}

    def redact(self, resource: Any) -> Any:
        """Return the redacted resource, or the same object if there is nothing to redact."""
        if resource is None:
            return None
        cached = self._cache.get(id(resource))
        if cached is not None:
            return cached[1]
        given = dict(resource.attributes)
        attributes = self._redactor.start().attributes(given)
        redacted = resource if attributes == given else Resource(attributes, resource.schema_url)
        self._cache[id(resource)] = (resource, redacted)
        self._cache[id(redacted)] = (redacted, redacted)
        _LIMIT.trim(self._cache)
        return redacted


def redact_scope(scope: Any, redaction: Redaction) -> Any:
    """Return the redacted instrumentation scope, or the same object if nothing is redacted."""
    if scope is None:
        return None
    given = (scope.name, scope.version, scope.schema_url)
    name, version, schema_url = (text and redaction.text(text) for text in given)
    attributes = redaction.attributes(scope.attributes)
    if (name, version, schema_url) == given and attributes == (scope.attributes or {}):
        return scope
    return InstrumentationScope(name, version, schema_url, attributes)
