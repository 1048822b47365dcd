"""Mutations of bytes that keep their format, so that a fuzzer gets behind the parser.

JSON stays JSON, also within the lines of an event stream. In other lines a number or the order
changes. Now and then single bytes change, so that invalid input is tried as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from random import Random
from typing import Any

_NUMBERS: list[Any] = [
    *(0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, 10**4299),
    *(0.5, -0.0, 1e18, 1e300, -1e300, 5e-324, math.nan, math.inf, -math.inf),
]
_TEXTS: list[Any] = [
    *("", "0", "-1", "1e999", "nan", "1_0", "\0", "half \ud800", "é漢🦙\u2028\x85", "x" * 5000),
    *("data:image/png;base64,AAAA", "/models/\ud800.gguf", "http://[", "zz", "stop", "{}", "[[["),
]
_OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], [{}], {"": None}]
_NUMBER_IN_TEXT = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBERS_AS_TEXT = [b"0", b"-1", b"1e999", b"NaN", b"+Inf", b"-Inf", b"1_0", b"1e-400", b"9" * 400]
_SEPARATORS = [
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"}",
    b'"',
    b",",
]


def field_names(inputs: Iterable[bytes]) -> list[str]:
    """Return the names of all fields in the JSON of these inputs."""
    found = {name for data in inputs for name in re.findall(rb'"(\w{1,50})"\s*:', data)}
    return sorted(name.decode() for name in found)


def mutated(data: bytes, random: Random, names: list[str], *, keep_types: bool = False) -> bytes:
    """Return a changed copy.

    Args:
        data: Any bytes.
        random: Source of every choice.
        names: Names of fields that an object may get.
        keep_types: Whether a number only becomes a number, and a text a text.
    """
    for _ in range(random.choice([1, 1, 2, 4])):
        if not keep_types and random.random() < 0.1:
            data = _with_changed_bytes(data, random)
        else:
            data = _with_changed_structure(data, random, names, keep_types)
    return data


def _with_changed_structure(
    data: bytes, random: Random, names: list[str], keep_types: bool
) -> bytes:
    try:
        return _with_changed_json(data, random, names, keep_types)
    except (ValueError, RecursionError):
        pass
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    prefix, brace, rest = lines[at].partition(b"{")
    try:
        changed = _with_changed_json(brace + rest, random, names, keep_types)
    except (ValueError, RecursionError):
        changed = brace + _with_changed_number(rest, random)
    action = random.random()
    if action < 0.7:
        lines[at] = prefix + changed
    elif action < 0.8:
        del lines[at]
    elif action < 0.9:
        lines.insert(random.randrange(len(lines) + 1), lines[at])
    else:
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def _with_changed_number(line: bytes, random: Random) -> bytes:
    found = list(_NUMBER_IN_TEXT.finditer(line))
    if not found:
        return _with_changed_bytes(line, random)
    chosen = random.choice(found)
    return line[: chosen.start()] + random.choice(_NUMBERS_AS_TEXT) + line[chosen.end() :]


def _with_changed_bytes(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    action = random.randrange(4)
    if action == 0:  # cut
        return data[:at]
    if action == 1:
        return data[:at] + random.choice(_SEPARATORS) + data[at:]
    if action == 2:
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    end = min(len(data), at + random.randrange(64))
    return data[:at] + data[at:end] * random.choice([0, 2, 3]) + data[end:]


def _with_changed_json(data: bytes, random: Random, names: list[str], keep_types: bool) -> bytes:
    document = json.loads(data)
    if not isinstance(document, (dict, list)):
        raise ValueError
    if document:
        _change(document, random, names, keep_types)
    return json.dumps(document).encode()


def _change(document: Any, random: Random, names: list[str], keep_types: bool) -> None:
    """Change one place of a document."""
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
    holder, key = random.choice(places)
    action = random.random()
    if action < 0.5:
        holder[key] = _other_value(holder[key], random, keep_types)
    elif action < 0.65:
        del holder[key]
    elif keep_types:
        return
    elif action < 0.8:  # a value from elsewhere
        other, at = random.choice(places)
        holder[key] = json.loads(json.dumps(other[at])) if at in other or holder else None
    elif isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(random.choice(holder))) if holder else None)
    elif names:
        holder[random.choice(names)] = _other_value(None, random, False)


def _other_value(value: Any, random: Random, keep_types: bool) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if keep_types:
        small = [each for each in _NUMBERS if abs(each) <= 2**63 - 1]
        return random.choice(small if is_number else ["", "x" * 40]) if is_number else value
    alike = _NUMBERS if is_number else _TEXTS if isinstance(value, str) else _OTHERS
    kind = random.random()
    if is_number and kind < 0.2 and abs(value) < 2**64:
        return value * random.choice([-1, 2, 1000, 0.5])
    chosen = random.choice(alike if kind < 0.7 else [*_NUMBERS, *_TEXTS, *_OTHERS])
    return json.loads(json.dumps(chosen))
