"""Sections of a prompt as keyed hashes: each tool, instruction and message.

The hashes tell which part of a prompt changed, and with it which part a server had to evaluate
again. No text is kept. A hash is a BLAKE2b with the random key of the run. Without the key a guess
cannot be tested, not even one of a short text such as "yes".

In the memory of this process, a section also has Python's own hashes of small blocks, counted from
both of its ends. They show where a long section changed, and are never exported.
"""

from __future__ import annotations

import json
import marshal
from array import array
from base64 import urlsafe_b64encode
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate, chain, pairwise, repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from llamatelemetry._limits import EMPTIED, LEAST_USED, Limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamatelemetry._limits import Cached

HASH_BYTES: Final = 6
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_OTHER: Final = "other"
TOOLS: Final = "tools"
_LIMIT: Final = Limit("prompt_sections", 4096, "Hashes of sections of prompts", EMPTIED)
_GROUPS: Final = Limit("prompt_groups", 4096, "Hashes of several sections of prompts", LEAST_USED)
_MOST_SECTIONS: Final = 1000
"""The sections after these are one section."""

# Blocks have 32 characters up to 2,048, then 256 up to 16,384, then 1,024. Beyond a million
# characters there are none.
_SIZES: Final = chain(repeat(32, 64), repeat(256, 56), repeat(1024, 960))
_BOUNDS: Final = (0, *accumulate(_SIZES))
_HASH: Final = 8  # bytes
_HEAD: Final = tuple(slice(start, end) for start, end in pairwise(_BOUNDS))
_TAIL: Final = tuple(slice(-end, -start or None) for start, end in pairwise(_BOUNDS))


class Section:
    """One section of a prompt.

    Attributes:
        kind: `tools`, a role, or the name of the field of the request.
        chars: Number of characters.
        digest: Keyed hash, as eight characters of URL-safe base64.
        entry: How a span describes the section, such as `system:622:2f46q_Rs`.
        head: Hashes of the blocks from the start.
        tail: Hashes of the blocks from the end.
        is_known: Whether a prompt before the newest one had this section.
    """

    __slots__ = ("chars", "digest", "entry", "head", "is_known", "kind", "tail")

    def __init__(self, kind: str, text: str, digest: str) -> None:
        self.kind = kind
        self.chars = chars = len(text)
        self.digest = digest
        self.entry = f"{kind}:{chars}:{digest}"
        count = bisect_right(_BOUNDS, chars) - 1
        self.head = _packed_hashes(text, _HEAD[:count])
        self.tail = _packed_hashes(text, _TAIL[:count])
        self.is_known = False

    @property
    def marks(self) -> tuple[Any, ...]:
        """What two sections that share anything have in common: the first block, or the last one."""
        if not self.head:  # It is shorter than a block.
            return (self.digest,)
        return (0, self.head[:_HASH]), (1, self.tail[:_HASH])

    def common_ends(self, other: Section) -> tuple[int, int]:
        """Return how many characters at the start, and at the end, are the same in both.

        These are whole blocks: the true numbers are less than one block larger.
        """
        head, tail = _common(self.head, other.head), _common(self.tail, other.tail)
        return head, min(tail, self.chars - head, other.chars - head)


def _packed_hashes(text: str, blocks: Iterable[slice]) -> bytes:
    return array("q", map(hash, map(text.__getitem__, blocks))).tobytes()


def _common(some: bytes, others: bytes) -> int:
    """Return the characters of the first blocks that are the same, by bisection."""
    if some[:_HASH] != others[:_HASH]:  # Texts that share nothing are the most frequent.
        return 0
    same, differing = 0, min(len(some), len(others)) // _HASH + 1
    while differing - same > 1:
        middle = (same + differing) // 2
        part = slice(same * _HASH, middle * _HASH)
        if some[part] == others[part]:
            same = middle
        else:
            differing = middle
    return _BOUNDS[same]


class SectionCache:
    """The sections of earlier prompts, so that only new ones are hashed.

    The key of a section is its kind, length and Python's hash of its content, which differs for each
    process: texts are not kept, and objects that the application changes are not mistaken for what
    they were. It is emptied when it has 4,096 sections, or four megabytes.

    Args:
        key: Key of the hashes.
    """

    _MOST_BYTES: Final = 4 * 1024 * 1024  # of block hashes

    def __init__(self, key: bytes) -> None:
        self._hash = blake2b(key=key, digest_size=HASH_BYTES)
        self._known: dict[tuple[Any, ...], Section] = {}
        self._bytes = 0
        self.hash_of: Cached[[tuple[str, ...]], str] = _GROUPS.cached(self._hash_of)
        """Returns one hash for the hashes of several sections."""

    def sections_of(self, parts: Iterable[Part]) -> list[Section]:
        """Return the section of each part; none if one of them is not JSON."""
        try:
            return [self._section(kind, value) for _, _, kind, value in parts]
        except (TypeError, ValueError, RecursionError):
            return []

    def _hash_of(self, digests: tuple[str, ...]) -> str:
        return self._digest("".join(digests))

    def _section(self, kind: str, value: Any) -> Section:
        text: str | None = None
        if type(value) is str:
            text, key = value, (kind, len(value), hash(value))
        else:
            try:
                # Version 0 depends on the value alone, and takes a fifth of the time of JSON.
                data = marshal.dumps(value, 0)
            except ValueError:  # Not of Python's basic types.
                text = _json(value)
                data = text.encode("utf-8", "surrogatepass")
            key = (kind, len(data), hash(data), "object")
        known = self._known.get(key)
        if known is not None:
            known.is_known = True
            return known
        if text is None:
            text = _json(value)
        section = Section(kind, text, self._digest(f"{kind}\0{text}"))
        self._add(key, section)
        return section

    def _add(self, key: tuple[Any, ...], section: Section) -> None:
        self._bytes += 2 * len(section.head)
        if len(self._known) >= _LIMIT.most or self._bytes > self._MOST_BYTES:
            _LIMIT.empty(self._known)
            self._bytes = 2 * len(section.head)
        self._known[key] = section

    def _digest(self, text: str) -> str:
        hashed = self._hash.copy()
        hashed.update(text.encode("utf-8", "surrogatepass"))
        return urlsafe_b64encode(hashed.digest()).decode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_type_name)


def _type_name(value: Any) -> str:
    return type(value).__name__


Part: TypeAlias = "tuple[str, int | None, str, Any]"
"""A part of a request: its field, its place in this field if that is a list, kind, and value."""


def part_name(part: Part) -> str:
    """Return the place of a part, such as `tools[0]`, `messages[1] user` or `prompt`."""
    field, item, kind, _ = part
    if item is None:
        return field
    return f"{field}[{item}]{'' if kind == TOOLS else ' ' + kind}"


def parts_of(body: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a request in the order of its prompt, which begins with the tools."""
    parts: list[Part] = []
    for name in ("tools", "functions"):
        tools = body.get(name)
        if tools:
            parts += [(name, index, TOOLS, tool) for index, tool in enumerate(_items(tools))]
    for name in ("instructions", "system", "prompt", "input"):
        value = body.get(name)
        if not value:
            continue
        if name == "input" and isinstance(value, list):
            parts += _messages(name, value)
        elif not _is_batch(value):
            parts.append((name, None, name, value))
    parts += _messages("messages", body.get("messages"))
    if len(parts) > _MOST_SECTIONS:
        rest = [value for _, _, _, value in parts[_MOST_SECTIONS:]]
        parts[_MOST_SECTIONS:] = [(_OTHER, None, _OTHER, rest)]
    return parts


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    return cast("list[Any]", value) if isinstance(value, (list, tuple)) else []


def _is_batch(value: Any) -> bool:
    """Return whether these are several prompts. Each of them has its own cache entry."""
    items = _items(value)
    return len(items) > 1 and isinstance(items[0], (str, list))


def _messages(field: str, values: Any) -> list[Part]:
    return [_message(field, index, message) for index, message in enumerate(_items(values))]


def _message(field: str, index: int, message: Any) -> Part:
    if type(message) is not dict:
        return field, index, _OTHER, message
    fields = cast("dict[str, Any]", message)
    role = fields.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        return field, index, _OTHER, fields
    # The usual message: its text is the whole content.
    if len(fields) == 2:
        content = fields.get("content")
        if type(content) is str:
            return field, index, role, content
    return field, index, role, fields
