"""Readers: each turns a given value, text or object, into the type of one option.

A reader raises ValueError without a message: the caller knows the option's name and
whether the value is a secret, and writes the one text that a user sees.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit


class Reader(NamedTuple):
    """How one kind of value is read: its type and accepted values in words, and the function."""

    type_name: str
    accepts: str
    read: Callable[[object], object]


def one_of(words: Mapping[str, object], accepts: str, type_name: str = "str") -> Reader:
    """One of the given words, in any case; each stands for the value it is mapped to."""

    def read(value: object) -> object:
        try:
            return words[str(value).strip().lower()]
        except KeyError:
            raise ValueError from None

    return Reader(type_name, accepts, read)


def choice(*names: str, aliases: Mapping[str, str] | None = None) -> Reader:
    """One of the names, in any case; `aliases` are further lower-case words for them."""
    words: dict[str, object] = {name.lower(): name for name in names}
    return one_of({**words, **(aliases or {})}, f"one of {', '.join(names)}")


SAMPLING_RULES = ("only_errors", "only_slow", "ratio")
"""Values of `sampling` that can be combined."""


def sampling_of(samplers: tuple[str, ...]) -> Reader:
    """One of the SDK's samplers, or any of our rules, which come out in one order."""
    rules = ", ".join(SAMPLING_RULES)

    def read(value: object) -> str:
        names = {name.lower() for name in read_texts(value)}
        if len(names) == 1 and names <= set(samplers):
            return names.pop()
        if not names or not names <= set(SAMPLING_RULES):
            raise ValueError
        return ",".join(rule for rule in SAMPLING_RULES if rule in names)

    return Reader("str", f"some of {rules}, comma-separated, or one of {', '.join(samplers)}", read)


BOOLEAN_WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

BOOLEAN = one_of(BOOLEAN_WORDS, "true or false (also 1/0, yes/no, on/off)", "bool")


def integer(minimum: int) -> Reader:
    """A whole number not below `minimum`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        number = int(value)
        if number < minimum:
            raise ValueError
        return number

    return Reader("int", f"a whole number from {minimum} up", read)


def number(minimum: float, maximum: float = math.inf) -> Reader:
    """A finite number within the bounds, both included."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        result = float(value)
        if not math.isfinite(result) or not minimum <= result <= maximum:
            raise ValueError
        return result

    bounds = f"from {minimum:g} up" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
    return Reader("float", f"a number {bounds}", read)


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


def _read_path(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return _read_text(os.fspath(cast("str | os.PathLike[str]", value)))


def _read_url(value: object) -> str:
    # Not only http(s): gRPC also takes "host:port" and other targets, and what works
    # without us must go on working.
    text = _read_text(value)
    parts = urlsplit(text if "://" in text else f"//{text}")
    host_missing = not parts.hostname and parts.scheme in ("", "http", "https")
    # Reading the port is the check that it is a number below 65536.
    if re.search(r"\s", text) or host_missing or parts.port == 0:
        raise ValueError
    return text


def _items(value: object) -> Iterable[object]:
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError
    return cast("Iterable[object]", value)


def read_texts(value: object) -> tuple[str, ...]:
    """The entries of a comma-separated text or of an iterable, without empty ones."""
    items = value.split(",") if isinstance(value, str) else _items(value)
    return tuple(text for item in items if (text := _read_text(item)))


def _read_web_addresses(value: object) -> tuple[str, ...]:
    addresses = read_texts(value)
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    return addresses


_INLINE_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}


def expression_with_flags(pattern: re.Pattern[str]) -> str:
    """Return the text of a compiled expression, with its flags inline."""
    flags = "".join(letter for flag, letter in _INLINE_FLAGS.items() if pattern.flags & flag)
    return f"(?{flags}:{pattern.pattern})" if flags else pattern.pattern


def _pattern_text(value: object) -> str:
    if not isinstance(value, re.Pattern):
        return _read_text(value)
    pattern = cast("re.Pattern[str]", value)
    # Patterns of bytes are rejected.
    _read_text(pattern.pattern)
    return _read_text(expression_with_flags(pattern))


_NAMES = re.compile(r"[a-z][a-z0-9_]*(\s*,\s*[a-z][a-z0-9_]*)+", re.IGNORECASE)


def _pattern_list(text: str) -> Iterable[object]:
    if _NAMES.fullmatch(text):
        return read_texts(text)  # names of built-in ones
    # Commas are part of expressions ("\d{3,4}"), so a list from the environment is JSON.
    # An expression that starts with a bracket ("[0-9]+") is no JSON list of strings.
    try:
        items: object = json.loads(text)
    except ValueError:
        return (text,)
    if isinstance(items, list) and all(isinstance(x, str) for x in cast("list[object]", items)):
        return cast("list[object]", items)
    return (text,)


def _read_patterns(value: object) -> tuple[str, ...]:
    if isinstance(value, re.Pattern):
        value = (cast("re.Pattern[str]", value),)
    items = _pattern_list(value) if isinstance(value, str) else _items(value)
    patterns = tuple(text for item in items if (text := _pattern_text(item)))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            raise ValueError from None
    return patterns


def _header_pairs(value: object) -> Iterable[tuple[object, object]]:
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value).items()
    pairs = (part.partition("=") for part in read_texts(_read_text(value)))
    # No "=" leaves an empty separator, which must not pass as an empty value.
    return [(unquote(key), unquote(text.strip()) if sep else None) for key, sep, text in pairs]


def _read_headers(value: object) -> dict[str, str]:
    headers: dict[str, str] = {}
    for key, text in _header_pairs(value):
        # gRPC metadata must be lower-case; HTTP does not care.
        name = _read_text(key).lower()
        if not name or not isinstance(text, str):
            raise ValueError
        headers[name] = text.strip()
    return headers


def _read_exporter(value: object) -> str:
    names = tuple(name.lower() for name in read_texts(_read_text(value)))
    if not names or not set(names) <= {"otlp", "console", "file", "none"}:
        raise ValueError
    if "none" in names and len(names) > 1:
        raise ValueError
    return ",".join(names)


def _read_span_processors(value: object) -> tuple[object, ...]:
    processors = tuple(_items(value))
    # Asked by shape, not by class: the SDK is not imported here.
    if not all(hasattr(p, "on_start") and hasattr(p, "on_end") for p in processors):
        raise ValueError
    return processors


TEXT = Reader("str", "text", _read_text)
PATH = Reader("str", "a path", _read_path)
URL = Reader("str", "a URL such as http://localhost:4318", _read_url)
TEXTS = Reader("tuple[str, ...]", "a comma-separated list", read_texts)
WEB_ADDRESSES = Reader("tuple[str, ...]", "http(s) URLs, comma-separated", _read_web_addresses)
PATTERNS = Reader(
    "tuple[str, ...]",
    "names of built-in patterns, comma-separated, one regular expression, or a JSON array of both",
    _read_patterns,
)
HEADERS = Reader("Mapping[str, str]", "key=value pairs, comma-separated", _read_headers)
EXPORTER = Reader(
    "str", "otlp, console, file (or several, comma-separated), or none", _read_exporter
)
SPAN_PROCESSORS = Reader("tuple[SpanProcessor, ...]", "span processors", _read_span_processors)
