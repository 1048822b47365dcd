"""Access to fields of JSON values, or of objects that a client library created from JSON.

Responses come from any server. Each function accepts any value and returns one of the expected type
or `None`. An unexpected response then means a missing attribute instead of an error. Values that OTLP
cannot represent are rejected as well: an exporter would drop the attribute and log an error, or, for
a span name, drop the whole batch.

Calls and chunks pass here many times. `typing.cast` is therefore not used: it takes as long as most of
these functions.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from llamatelemetry._limits import Limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PATH = re.compile(r"^(?:[/~.\\]|[A-Za-z]:[\\/])|\.gguf$", re.IGNORECASE)
# Counts are summed as floating point numbers, which are exact up to this value.
_LARGEST_COUNT = 2**53
_LARGEST_INTEGER = 2**63 - 1


def get_field(source: Any, name: str) -> Any:
    """Return the value of a key of a dict, or of a declared or extra field of a pydantic model.

    `getattr` is not used: it is slow for missing names of a model, and could run a property.
    """
    if type(source) is dict:
        return source.get(name)  # type: ignore[reportUnknownMemberType]
    try:
        # Undeclared fields, such as llama.cpp's timings (pydantic 2).
        extra: Mapping[str, Any] | None = source.__pydantic_extra__
        value = source.__dict__.get(name)
    except AttributeError:
        if isinstance(source, dict):
            return source.get(name)  # type: ignore[reportUnknownMemberType]
        return source.__dict__.get(name) if hasattr(source, "__dict__") else None
    return extra.get(name) if value is None and extra else value


def as_fields(source: Any) -> Mapping[str, Any]:
    """Return all fields of a value as a dict; empty if the value is not an object.

    Faster than `get_field` for three or more fields.
    """
    # Not `isinstance` first, which goes through all base classes of a model.
    if type(source) is dict:
        return source  # type: ignore[reportUnknownVariableType]
    try:
        fields: Mapping[str, Any] = source.__dict__
        extra: Mapping[str, Any] | None = source.__pydantic_extra__
    except AttributeError:
        if isinstance(source, dict):
            return source  # type: ignore[reportUnknownVariableType]
        return as_dict(getattr(source, "__dict__", None))
    return {**fields, **extra} if extra else fields


def get_strs(source: Any, *names: str) -> list[str | None]:
    """Return what `as_str` returns for each of some fields, in one call for all of them."""
    return [as_str(get_field(source, name)) for name in names]


def as_str(value: Any) -> str | None:
    """Return the value if it is a non-empty string that UTF-8 can encode, else `None`."""
    if not isinstance(value, str) or not value:
        return None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can contain half of a surrogate pair
            return None
    return value


def as_count(value: Any) -> int | None:
    """Return the value as a non-negative integer up to `2**53`, else `None`."""
    found = value if type(value) is int else as_int(value)
    return found if found is not None and 0 <= found <= _LARGEST_COUNT else None


def as_int(value: Any) -> int | None:
    """Return the value if it is a 64-bit integer, else `None`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER else None
    return None


def as_float(value: Any) -> float | None:
    """Return the value as a finite float, else `None`."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    whole = as_int(value)
    return None if whole is None else float(whole)


def as_list(value: Any) -> Sequence[Any]:
    """Return the value if it is a list or tuple, else an empty one. Iterators are not consumed."""
    # The first check alone takes a fifth of the second one's time.
    if type(value) is list or isinstance(value, (list, tuple)):
        return value  # type: ignore[reportUnknownVariableType]
    return ()


def as_dict(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}  # type: ignore[reportUnknownVariableType]


def model_name(value: Any) -> str | None:
    """Return a model's name without the directory of its file.

    `meta-llama/Llama-3.2-1B` is a name and stays. `/models/smol.gguf` is a path, which would reveal a
    directory and create a time series per machine; it becomes `smol.gguf`.
    """
    return _without_folder(value) if isinstance(value, str) else None


@Limit("model_names", 256, "Model names without folders").cached
def _without_folder(text: str) -> str | None:
    name = as_str(text)
    if name is None or not _PATH.search(name):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or None
