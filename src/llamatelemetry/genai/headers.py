"""Looking into the headers of httpx, httpx2 and requests without paying for all of them.

What httpx offers for it decodes, or copies, every header for each look, which is more than all
else that a call takes us. Its headers keep a list of names as sent, names in lower case, and
values, in bytes. That list is private: where it is not what it is known to be, what is public
is used.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Entry = tuple[bytes, bytes, bytes]

_name_of = itemgetter(1)


def has_header(headers: Any, name: str) -> bool:
    """Say whether there is a header; ``name`` in lower case."""
    if not _is_kept_as_list(headers.__class__):
        return name in headers
    return name.encode() in map(_name_of, headers._list)


def header(headers: Any, name: str) -> str | None:
    """Give the first value of a header; ``name`` in lower case."""
    if not _is_kept_as_list(headers.__class__):
        return headers.get(name)
    entries: list[_Entry] = headers._list
    found = [*map(_name_of, entries)]
    wanted = name.encode()
    return entries[found.index(wanted)][2].decode("latin-1") if wanted in found else None


def add_header(headers: Any, name: str, value: str) -> None:
    """Add a header that is not there yet; ``name`` in lower case, both in ASCII."""
    if not _is_kept_as_list(headers.__class__):
        headers[name] = value
    else:
        headers._list.append((name.encode(), name.encode(), value.encode()))


@lru_cache(maxsize=16)
def _is_kept_as_list(kind: Any) -> bool:
    if not kind.__module__.startswith("httpx"):
        return False
    try:
        return kind({"Name": "value"})._list == [(b"Name", b"name", b"value")]
    except Exception:  # whatever it is by now: it is asked in public
        return False
