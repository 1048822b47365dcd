"""Fast access to the headers of httpx, httpx2 and requests.

httpx decodes or copies all headers for each access, which costs more than the rest of our work per
call. Internally it keeps a list of (name, lowercase name, value) in bytes. That list is private: if it
does not have the expected form, the public interface is used.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler

if TYPE_CHECKING:
    # Name as sent, name in lower case, value.
    Entry = tuple[bytes, bytes, bytes]

NAME: Final = itemgetter(1)
"""Getter of the lowercase name of an entry."""
VALUE: Final = itemgetter(2)


@lru_cache(maxsize=16)
def has_list(kind: Any) -> bool:
    """Return whether headers of a class keep their entries in `_list`, as `Entry` describes.

    If not, only their public interface may be used. (Read `headers._list` in the caller: a
    function for it would take as long as the rest.)
    """
    if not kind.__module__.startswith("httpx"):
        return False
    try:
        return bool(kind({"Name": "value"})._list == [(b"Name", b"name", b"value")])
    except Exception as error:  # Whatever it has become, the public interface is used.
        raise_if_from_signal_handler(error)
        return False
