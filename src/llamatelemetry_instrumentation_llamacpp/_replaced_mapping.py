"""Headers or extensions of a request, which are replaced by a copy while the request is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReplacedMapping:
    """A mapping of a request, and the copy with more entries that the request has meanwhile.

    Authentication, event hooks and transport adapters change the copy. The application reads their
    changes in the request of the response, so they are made in the original, too.

    Args:
        original: The mapping of the application.
        sent: Its copy, with the additional entries.
        added: Names of all entries that may be additional.
    """

    __slots__ = ("_added", "_entries", "_original", "_sent")

    def __init__(self, original: Any, sent: Any, added: Sequence[str]) -> None:
        self._original = original
        self._sent = sent
        self._added = added
        self._entries = _entries_of(sent)

    def restore(self, current: Any) -> Any:
        """Return the mapping to put back into the request, which has `current` now."""
        if current is not self._sent:
            return current  # The application has assigned one of its own.
        if _entries_of(current) != self._entries:
            self._copy_changes()
        return self._original

    def _copy_changes(self) -> None:
        original, changed = self._original, self._sent.copy()
        before = changed.__class__(self._entries)
        for name in self._added:
            if changed.get(name) != before.get(name):
                continue  # The application has set it.
            if name in original:
                changed[name] = original[name]
            else:
                changed.pop(name, None)
        original.clear()
        original.update(changed)


def _entries_of(mapping: Any) -> Sequence[tuple[Any, Any]]:
    # `items` of httpx decodes them all.
    return mapping.raw if hasattr(mapping, "raw") else [*mapping.items()]
