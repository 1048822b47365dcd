"""Parsers of option values, from text or objects, and of OpenTelemetry's own variables.

A parser raises `ValueError` without a message. Its caller knows the name of the option and
whether the value is secret, so the caller writes the message for the user.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit


class ValueParser(NamedTuple):
    """The parser of one kind of value. `accepts` describes these values for users."""

    accepts: str
    parse: Callable[[object], object]


def one_of(words: Mapping[str, object], accepts: str) -> ValueParser:
    """Return a parser of words in any case. Each word maps to a value."""

    def parse(value: object) -> object:
        try:
            return words[str(value).strip().lower()]
        except KeyError:
            raise ValueError from None

    return ValueParser(accepts, parse)


def choice(*names: str, aliases: Mapping[str, str] | None = None) -> ValueParser:
    """Return a parser of names in any case. `aliases` maps further lower-case words to names."""
    words: dict[str, object] = {name.lower(): name for name in names}
    return one_of({**words, **(aliases or {})}, f"one of {', '.join(names)}")


SAMPLING_RULES = ("only_errors", "only_slow", "ratio")
"""Values of the option `sampling` that can be combined."""


def sampling_of(samplers: tuple[str, ...]) -> ValueParser:
    """Return a parser of one SDK sampler or of several rules, which it sorts."""
    rules = ", ".join(SAMPLING_RULES)

    def parse(value: object) -> str:
        names = {name.lower() for name in parse_list(value)}
        if len(names) == 1 and names <= set(samplers):
            return names.pop()
        if not names or not names <= set(SAMPLING_RULES):
            raise ValueError
        return ",".join(rule for rule in SAMPLING_RULES if rule in names)

    accepts = f"one or more of {rules} (comma-separated), or one of {', '.join(samplers)}"
    return ValueParser(accepts, parse)


BOOLEAN_WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

_LONGEST_MS = int(threading.TIMEOUT_MAX) * 1000

BOOLEAN = one_of(BOOLEAN_WORDS, "true or false (also 1/0, yes/no, on/off)")


def integer(minimum: int) -> ValueParser:
    """Return a parser of integers with a minimum.

    The SDK raises for a limit that is larger than any list, in the application, too. An integer
    that stands for "unlimited" is cut to the maximum.
    """

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        number = int(value)
        if number < minimum:
            raise ValueError
        return min(number, sys.maxsize)

    return ValueParser(f"integer >= {minimum}", parse)


def milliseconds(minimum: int) -> ValueParser:
    """Return a parser of integers with a minimum, for intervals.

    A thread cannot wait for centuries. An interval that stands for "never" is cut to the maximum.
    """
    accepts, parse_integer = integer(minimum)

    def parse(value: object) -> int:
        return min(cast("int", parse_integer(value)), _LONGEST_MS)

    return ValueParser(accepts, parse)


def number(minimum: float, maximum: float = math.inf) -> ValueParser:
    """Return a parser of finite numbers within bounds, both included."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        result = float(value)
        if not math.isfinite(result) or not minimum <= result <= maximum:
            raise ValueError
        return result

    bounds = f">= {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
    return ValueParser(f"number {bounds}", parse)


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


def _parse_path(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return _parse_text(os.fspath(cast("str | os.PathLike[str]", value)))


def _parse_url(value: object) -> str:
    # Not only http(s): gRPC also accepts "host:port" and other targets, and a value that the SDK
    # accepts must not be rejected here.
    text = _parse_text(value)
    parts = urlsplit(text if "://" in text else f"//{text}")
    host_missing = not parts.hostname and parts.scheme in ("", "http", "https")
    # The property `port` raises ValueError for a port that is not a number below 65536.
    if re.search(r"\s", text) or host_missing or parts.port == 0:
        raise ValueError
    return text


def _items(value: object) -> Iterable[object]:
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError
    return cast("Iterable[object]", value)


def parse_list(value: object) -> tuple[str, ...]:
    """Return the non-empty entries of a comma-separated text or of an iterable."""
    items = value.split(",") if isinstance(value, str) else _items(value)
    return tuple(text for item in items if (text := _parse_text(item)))


def _parse_web_addresses(value: object) -> tuple[str, ...]:
    addresses = parse_list(value)
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
        return _parse_text(value)
    pattern = cast("re.Pattern[str]", value)
    # Patterns of bytes are rejected.
    _parse_text(pattern.pattern)
    return _parse_text(expression_with_flags(pattern))


# Compiled on first use, as no other value needs it: that takes longer than importing this module.
_PATTERN_NAMES = r"(?i)[a-z][a-z0-9_]*(\s*,\s*[a-z][a-z0-9_]*)+"


def _pattern_list(text: str) -> Iterable[object]:
    if re.fullmatch(_PATTERN_NAMES, text):
        return parse_list(text)
    # Regular expressions contain commas ("\d{3,4}"), so a list of them must be a JSON array.
    # An expression that starts with a bracket ("[0-9]+") is not a JSON array of strings.
    try:
        items: object = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    if isinstance(items, list) and all(isinstance(x, str) for x in cast("list[object]", items)):
        return cast("list[object]", items)
    return (text,)


def _parse_patterns(value: object) -> tuple[str, ...]:
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
    pairs = (part.partition("=") for part in parse_list(_parse_text(value)))
    # Without "=" the value is None, not empty, so that it is rejected.
    return [(unquote(key), unquote(text.strip()) if sep else None) for key, sep, text in pairs]


# With any other character, each export fails, or the receiver closes the connection.
_HEADER_NAME = r"[a-z0-9!#$%&'*+.^_`|~-]+"
_HEADER_VALUE = r"[\t\x20-\x7e\x80-\xff]*"


def _parse_headers(value: object) -> dict[str, str]:
    headers: dict[str, str] = {}
    for key, text in _header_pairs(value):
        # gRPC metadata must be lower-case. HTTP header names ignore case.
        name, content = _parse_text(key).lower(), _parse_text(text)
        if not re.fullmatch(_HEADER_NAME, name) or not re.fullmatch(_HEADER_VALUE, content):
            raise ValueError
        headers[name] = content
    return headers


_EXPORTERS = {"otlp", "console", "console-json", "file", "prometheus", "none"}


def _parse_exporter(value: object) -> str:
    names = tuple(name.lower() for name in parse_list(_parse_text(value)))
    if not names or not set(names) <= _EXPORTERS:
        raise ValueError
    if "none" in names and len(names) > 1:
        raise ValueError
    return ",".join(names)


def _parse_span_processors(value: object) -> tuple[object, ...]:
    processors = tuple(_items(value))
    # Duck typing, because this package must not import the SDK.
    if not all(hasattr(p, "on_start") and hasattr(p, "on_end") for p in processors):
        raise ValueError
    return processors


TEXT = ValueParser("text", _parse_text)
PATH = ValueParser("path", _parse_path)
URL = ValueParser("URL such as http://localhost:4318", _parse_url)
TEXTS = ValueParser("comma-separated list", parse_list)
WEB_ADDRESSES = ValueParser("http(s) URLs, comma-separated", _parse_web_addresses)
PATTERNS = ValueParser(
    "comma-separated names of built-in patterns, one regular expression, or a JSON array of both",
    _parse_patterns,
)
HEADERS = ValueParser("HTTP headers as key=value pairs, comma-separated", _parse_headers)
EXPORTER = ValueParser(
    "one or more of otlp, console, console-json, file, prometheus (comma-separated), or none",
    _parse_exporter,
)
SPAN_PROCESSORS = ValueParser("span processors", _parse_span_processors)

SIGNALS = ("traces", "metrics", "logs")


def exporter_from_otel(variables: Mapping[str, str]) -> str:
    """Return the exporters of `OTEL_{TRACES,METRICS,LOGS}_EXPORTER` as a value of `exporter`."""
    # Any name is accepted, because exporters are plugins of the SDK.
    found = {
        signal: ",".join(parse_list(variables.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp")))
        for signal in SIGNALS
    }
    if len(set(found.values())) == 1:
        return found["traces"]
    return " ".join(f"{signal}={names}" for signal, names in found.items())


def sampling_from_otel(variables: Mapping[str, str]) -> str:
    """Return the sampler or rules of `OTEL_TRACES_SAMPLER` as a value of `sampling`."""
    # Any name is accepted, because samplers are plugins of the SDK.
    (text,) = variables.values()
    names = [name.lower() for name in parse_list(text)]
    rules = [rule for rule in SAMPLING_RULES if rule in names]
    return ",".join(rules) if rules and set(rules) == set(names) else text.lower()


def metric_names_from_otel(variables: Mapping[str, str]) -> str | None:
    """Return the value of `metric_names` for `OTEL_SEMCONV_STABILITY_OPT_IN`.

    `None` without an entry for GenAI, because other libraries use the same list.
    """
    (text,) = variables.values()
    entries = {entry.lower() for entry in parse_list(text)}
    if "gen_ai_latest_experimental/dup" in entries:
        return "both"
    return "latest" if "gen_ai_latest_experimental" in entries else None
