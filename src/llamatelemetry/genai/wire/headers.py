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
    Entry = tuple[bytes, bytes, bytes]

NAME: Final = itemgetter(1)
"""Of an entry, in lower case."""
VALUE: Final = itemgetter(2)


def entries_of(headers: Any) -> list[Entry] | None:
    """Give the list that headers are kept in: name as sent, name in lower case, value.

    ``None`` where there is none that is known: then they are to be asked in public.
    """
    entries: list[Entry] | None = headers._list if _is_kept_as_list(headers.__class__) else None
    return entries


@lru_cache(maxsize=16)
def _is_kept_as_list(kind: Any) -> bool:
    if not kind.__module__.startswith("httpx"):
        return False
    try:
        return kind({"Name": "value"})._list == [(b"Name", b"name", b"value")]
    except Exception:  # whatever it is by now: it is asked in public
        return False
