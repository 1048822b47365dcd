"""Reading single fields out of JSON, or out of objects that a client library made from JSON.

Replies come from anywhere: each reader takes any value and gives one of the expected type or
``None``, so that a server's odd answer is an absent attribute and not an error. What OTLP
cannot carry is odd too: an exporter would drop the attribute with an error in the log, or, in
the name of a span, the whole batch.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PATH = re.compile(r"^(?:[/~.\\]|[A-Za-z]:[\\/])|\.gguf$", re.IGNORECASE)
# Counts are added up and become sums in floating point: beyond this they are not exact.
_LARGEST_COUNT = 2**53
_LARGEST_INTEGER = 2**63 - 1


def get_field(source: Any, name: str) -> Any:
    """Give the value of a key of a dict, or of a field of a pydantic model, declared or extra.

    Not ``getattr``: on a model that is slow for a name that is missing, and it could run a property.
    """
    if isinstance(source, dict):
        return cast("dict[str, Any]", source).get(name)
    try:
        value = source.__dict__.get(name)
        if value is None:
            # Fields the library does not know, such as llama.cpp's timings (pydantic 2).
            extra: Mapping[str, Any] | None = source.__pydantic_extra__
            if extra is not None:
                return extra.get(name)
    except AttributeError:
        return source.__dict__.get(name) if hasattr(source, "__dict__") else None
    return value


def as_fields(source: Any) -> Mapping[str, Any]:
    """Give all that `get` could give, as a dict; an empty one for what is no object.

    Cheaper than `get` from the third field on.
    """
    if isinstance(source, dict):
        return cast("dict[str, Any]", source)
    try:
        fields: Mapping[str, Any] = source.__dict__
        extra: Mapping[str, Any] | None = source.__pydantic_extra__
    except AttributeError:
        return as_dict(getattr(source, "__dict__", None))
    return {**fields, **extra} if extra else fields


def as_str(value: Any) -> str | None:
    """Give a non-empty string that UTF-8 can spell, else ``None``."""
    if not isinstance(value, str) or not value:
        return None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            return None
    return value


def as_count(value: Any) -> int | None:
    """Give a whole number that is not negative and is exact as a float, else ``None``."""
    found = value if type(value) is int else as_int(value)
    return found if found is not None and 0 <= found <= _LARGEST_COUNT else None


def as_int(value: Any) -> int | None:
    """Give a whole number of 64 bits, else ``None``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER else None
    return None


def as_float(value: Any) -> float | None:
    """Give a finite number as float, else ``None``."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    whole = as_int(value)
    return None if whole is None else float(whole)


def as_list(value: Any) -> Sequence[Any]:
    """Give a list or tuple as it is, else an empty one. Iterators are never consumed."""
    return cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else ()


def as_dict(value: Any) -> Mapping[str, Any]:
    """Give a dict as it is, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def model_name(value: Any) -> str | None:
    """Give a model's name without the folder of its file.

    ``meta-llama/Llama-3.2-1B`` is a name and stays; ``/models/smol.gguf`` is a path, which
    would leak a directory and make a new series for each machine: it becomes ``smol.gguf``.
    """
    name = as_str(value)
    return None if name is None else _without_folder(name)


@lru_cache(maxsize=256)
def _without_folder(name: str) -> str | None:
    if not _PATH.search(name):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or None
