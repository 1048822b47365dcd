"""Fast access to the headers of httpx, httpx2 and requests.

httpx decodes or copies all headers for each access, which costs more than the rest of our work per
call. Internally it keeps a list of (name, lowercase name, value) in bytes. That list is private: if it
does not have the expected form, the public interface is used.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    Entry = tuple[bytes, bytes, bytes]

NAME: Final = itemgetter(1)
"""Getter of the lowercase name of an entry."""
VALUE: Final = itemgetter(2)


def entries_of(headers: Any) -> list[Entry] | None:
    """Return the internal list of headers: name, lowercase name, value.

    Returns `None` if there is no such list, so that the caller uses the public interface.
    """
    entries: list[Entry] | None = headers._list if _is_kept_as_list(headers.__class__) else None
    return entries


@lru_cache(maxsize=16)
def _is_kept_as_list(kind: Any) -> bool:
    if not kind.__module__.startswith("httpx"):
        return False
    try:
        return kind({"Name": "value"})._list == [(b"Name", b"name", b"value")]
    except Exception:  # an unknown version: the caller uses the public interface
        return False
