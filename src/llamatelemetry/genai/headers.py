"""Looking into the headers of httpx, httpx2 and requests without paying for all of them.

What httpx offers for it decodes, or copies, every header for each look, which is more than all
else that a call takes us. Its headers keep a list of names as sent, names in lower case, and
values, in bytes. That list is private: where it is not what it is known to be, what is public
is used.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    # Name as sent, name in lower case, value.
    Entry = tuple[bytes, bytes, bytes]

NAME: Final = itemgetter(1)
"""Of an entry, in lower case."""
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
    except Exception:  # Whatever it has become, the public interface is used.
        return False
