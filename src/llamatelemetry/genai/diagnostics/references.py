"""Which earlier prompt a new one shares most with, how much, and what changed first.

A server keeps the evaluated tokens of earlier prompts and evaluates a new prompt from the first
token that differs. What it really had is in its own figures: here is only what it could have had.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry._limits import Limit
from llamatelemetry.genai.diagnostics.sections import TOOLS, part_name
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv import operations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.diagnostics.sections import Part, Section, SectionCache

_PROMPTS: Final = Limit("prompts", 64, "Prompts of one server and model")
_MODELS: Final = Limit("prompt_models", 32, "Servers and models with their prompts")
# Of these newest prompts, and the one with the longest common prefix, all shared sections count.
_COMPARED_WHOLLY: Final = 8
# Sections that are an entry of their own: at the start the tools and the system prompt, at the end
# the sections that the prompt before does not have.
_FIRST: Final = 8
_LAST: Final = 2
_GROUP: Final = 5
_GROUPED_ENTRIES: Final = 34


class Prompt:
    """The sections of one prompt.

    Attributes:
        sections: The sections, in order.
        span_id: Identifier of the call's span.
        has_failed: Whether the server did not evaluate it, such as one that is too long.
    """

    __slots__ = ("_marks", "has_failed", "sections", "span_id")

    def __init__(self, sections: Sequence[Section], span_id: int) -> None:
        self.sections = sections
        self.span_id = span_id
        self.has_failed = False
        self._marks: set[Any] | None = None

    def may_share(self, other: Prompt) -> bool:
        """Return whether two sections start or end alike. This is quicker than to compare all."""
        return not self.marks.isdisjoint(other.marks)

    @property
    def marks(self) -> set[Any]:
        """The marks of all sections."""
        if self._marks is None:
            self._marks = set(chain.from_iterable(section.marks for section in self.sections))
        return self._marks


class Shared(NamedTuple):
    """What two prompts share, in characters.

    Attributes:
        prompt: The earlier prompt.
        prefix_chars: Length of the common prefix.
        same_chars: Characters that are the same in any position.
        change: Index of the first section that differs; `None` if one prompt begins with the other.
        is_reordered: Whether that section is a tool, and both prompts have the same tools.
        change_at: Characters at the start of that section that are the same.
    """

    prompt: Prompt
    prefix_chars: int
    same_chars: int
    change: int | None
    change_at: int
    is_reordered: bool = False


class PromptHistory:
    """The newest prompts of this process, for each server and model.

    Any thread may add prompts.
    """

    def __init__(self) -> None:
        self._prompts: dict[Any, deque[Prompt]] = {}

    def add(self, scope: Any, prompt: Prompt) -> tuple[Shared, Shared] | None:
        """Add a prompt. Return what it shares with two earlier ones, or `None` if it shares nothing.

        The first of them shares most with it. The second has the longest common prefix.
        """
        earlier = self._prompts.get(scope)
        if earlier is None:
            earlier = self._prompts.setdefault(scope, deque(maxlen=_PROMPTS.most))
            _MODELS.trim(self._prompts)
        found = _find(prompt, _PROMPTS.copy(earlier))
        _PROMPTS.append(earlier, prompt)
        return found


def _find(newest: Prompt, earlier: Sequence[Prompt]) -> tuple[Shared, Shared] | None:
    new = newest.sections
    if not new:
        return None
    candidates: list[tuple[int, int, Prompt]] = []  # prefix in characters and sections
    for prompt in reversed(earlier):
        if prompt.has_failed:
            continue
        count, chars = _common_sections(new, prompt.sections)
        if count == len(prompt.sections) and (count == len(new) or not new[count].is_known):
            # The new prompt continues this one, with a section that no other prompt has.
            shared = Shared(prompt, chars, chars, None, 0)
            return (shared, shared) if chars else None
        candidates.append((chars, count, prompt))
        if len(candidates) == _COMPARED_WHOLLY and not new[0].is_known:
            break  # No earlier prompt begins with this section.
    longest = max(candidates, key=lambda each: each[0], default=None)
    if longest is None:
        return None
    compared = candidates[:_COMPARED_WHOLLY]
    if longest not in compared:
        compared.append(longest)
    shares = [
        _compare(new, prompt, count, chars)
        for chars, count, prompt in compared
        if newest.may_share(prompt)
    ]
    if not shares:
        return None
    # Of equals, the newest: `max` returns the first.
    most = max(shares, key=lambda shared: (shared.same_chars, shared.prefix_chars))
    prefix = max(shares, key=lambda shared: (shared.prefix_chars, shared is most))
    return (most, prefix) if most.same_chars else None


def _common_sections(new: Sequence[Section], old: Sequence[Section]) -> tuple[int, int]:
    count = chars = 0
    # Most prompts of another conversation end here.
    if not old or new[0].digest != old[0].digest:
        return 0, 0
    for one, other in zip(new, old, strict=False):
        if one is not other and one.digest != other.digest:
            break
        count += 1
        chars += one.chars
    return count, chars


def _compare(new: Sequence[Section], prompt: Prompt, count: int, chars: int) -> Shared:
    """Compare the sections after the `count` common ones, which have `chars` characters."""
    old = prompt.sections
    if count in (len(new), len(old)):
        return Shared(prompt, chars, chars, None, 0)
    rest, added = old[count:], new[count:]
    # No other section can be in the old prompt.
    known = {section.digest for section in added if section.is_known}
    kept = {section.digest for section in rest} & known if known else known
    same, head = chars, 0
    for index, section in enumerate(added):
        if section.digest in kept:
            same += section.chars
            continue
        partner = _partner(section, rest, index, len(added))
        if partner is not None and partner.digest not in known:
            start, end = section.common_ends(partner)
            same += start + end
            head = start if index == 0 else head
    is_reordered = new[count].kind == TOOLS and _tools(new) == _tools(old)
    return Shared(prompt, chars + head, same, count, head, is_reordered)


def _tools(sections: Sequence[Section]) -> list[str]:
    return sorted(section.digest for section in sections if section.kind == TOOLS)


def _partner(
    section: Section, old: Sequence[Section], index: int, new_count: int
) -> Section | None:
    """Return the section that this one has replaced: at the same place from the start or the end."""
    for place in (index, len(old) - new_count + index):
        if 0 <= place < len(old) and old[place].kind == section.kind:
            return old[place]
    return None


def prompt_attributes(
    cache: SectionCache, sections: Sequence[Section]
) -> Iterator[tuple[str, AttributeValue]]:
    """Yield the sections of a prompt as span attributes.

    The first and the last sections are entries of their own, such as `system:622:2f46q_Rs`: kind,
    characters and hash. Between them is one entry for each five, such as `*5:5120:0c1dLj-K`. A
    prompt that grows has the same groups again, except that the 34th entry has all that remain.
    """
    if not sections:
        return
    entries = [section.entry for section in sections[:_FIRST]]
    start, last = _FIRST, len(sections) - _LAST
    while last - start >= _GROUP:
        end = start + _GROUP if len(entries) < _GROUPED_ENTRIES - 1 else last
        group = sections[start:end]
        chars = sum([section.chars for section in group])
        digest = cache.hash_of(tuple([section.digest for section in group]))
        entries.append(f"*{len(group)}:{chars}:{digest}")
        start = end
    entries += [section.entry for section in sections[start:]]
    yield names.PROMPT_SECTIONS, tuple(entries)
    yield names.PROMPT_CHARS, sum([section.chars for section in sections])


def reference_attributes(
    most: Shared, prefix: Shared, parts: Sequence[Part]
) -> Iterator[tuple[str, AttributeValue]]:
    """Yield what a prompt shares with earlier ones as span attributes."""
    yield names.PROMPT_REFERENCE, f"{most.prompt.span_id:016x}"
    yield names.PROMPT_COMMON_CHARS, most.prefix_chars
    if most.same_chars != most.prefix_chars:
        yield names.PROMPT_SAME_CHARS, most.same_chars
    if most.change is not None:
        order = operations.TOOLS_REORDERED if most.is_reordered else ""
        yield names.PROMPT_FIRST_CHANGE, part_name(parts[most.change]) + order
        yield names.PROMPT_CHANGE_AT, most.change_at
    if prefix.prompt is not most.prompt:
        yield names.PROMPT_PREFIX_REFERENCE, f"{prefix.prompt.span_id:016x}"
        yield names.PROMPT_PREFIX_CHARS, prefix.prefix_chars
