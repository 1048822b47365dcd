"""Redacts resources and instrumentation scopes, which many spans and records share."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .redaction import Redaction, Redactor

_MOST_KEPT = 64


class ResourceCleaner:
    """Redacts each resource once."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        # By identity, with the resource itself, so that the identity stays its own.
        self._known: dict[int, tuple[Resource, Resource]] = {}

    def cleaned(self, resource: Any) -> Any:
        """The resource as it may leave; the same object when there is nothing to redact."""
        if resource is None:
            return None
        known = self._known.get(id(resource))
        if known is not None:
            return known[1]
        found = cleaned_resource(resource, self._redactor.begin())
        if len(self._known) > _MOST_KEPT:
            self._known.clear()
        self._known[id(resource)] = (resource, found)
        self._known[id(found)] = (found, found)
        return found


def cleaned_resource(resource: Resource, redaction: Redaction) -> Resource:
    """A resource with redacted attributes; the same object when there is nothing to redact."""
    given = dict(resource.attributes)
    found = redaction.attributes(given)
    return resource if found == given else Resource(found, resource.schema_url)


def cleaned_scope(scope: Any, redaction: Redaction) -> Any:
    """An instrumentation scope with redacted attributes; most have none."""
    given = dict(getattr(scope, "attributes", None) or {})
    found = redaction.attributes(given)
    if found == given:
        return scope
    return InstrumentationScope(scope.name, scope.version, scope.schema_url, found)
