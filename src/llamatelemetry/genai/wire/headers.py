"""Fast access to the headers of httpx, httpx2 and requests.

httpx decodes or copies all headers for each access, which costs more than the rest of our work per
call. Internally it keeps a list of (name, lowercase name, value) in bytes. That list is private: if it
does not have the expected form, the public interface is used.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._limits import Limit
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler

if TYPE_CHECKING:
    from collections.abc import Iterable

    # Name as sent, name in lower case, value.
    Entry = tuple[bytes, bytes, bytes]

NAME: Final = itemgetter(1)
"""Getter of the lowercase name of an entry."""
VALUE: Final = itemgetter(2)


@Limit("header_classes", 16, "Classes of HTTP headers").cached
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


_HIDDEN: Final = "set-cookie"  # A session is a credential: a pattern with `*` does not match it.


def header_attributes(headers: Any, names: Iterable[str]) -> dict[str, list[str]]:
    """Return `http.response.header.<name>` for each header that matches one of `names`.

    The value is a list, as in OpenTelemetry's conventions. `names` are exact, or patterns with `*`,
    in any case.
    """
    wanted = [name.lower() for name in names]
    found: dict[str, list[str]] = {}
    items: Iterable[tuple[str, str]] = getattr(headers, "multi_items", headers.items)()
    for name, value in ((name.lower(), value) for name, value in items):
        if name in wanted or (
            name != _HIDDEN and any(fnmatchcase(name, pattern) for pattern in wanted)
        ):
            found.setdefault(f"http.response.header.{name}", []).append(str(value))
    return found
