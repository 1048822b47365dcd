"""Which earlier prompt a new one shares most with, how much, and what changed first.

A server keeps the evaluated tokens of earlier prompts and evaluates a new prompt from the first
token that differs. What it really had is in its own figures: here is only what it could have had.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry._limits import Limit
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.diagnostics.sections import Part, Section, SectionCache

_PROMPTS: Final = Limit("prompts", 64, "Prompts of one server and model")
_MODELS: Final = Limit("prompt_models", 32, "Servers and models with their prompts")
# Of these newest prompts, and the one with the longest common prefix, all shared sections count.
_COMPARED_WHOLLY: Final = 8
_SINGLE_ENTRIES: Final = 20
_ENTRIES: Final = 40
_GROUP: Final = 10


class Prompt:
    """The sections of one prompt.

    Attributes:
        sections: The sections, in order.
        span_id: Identifier of the call's span.
        has_failed: Whether the server did not evaluate it, such as one that is too long.
    """

    __slots__ = ("has_failed", "sections", "span_id")

    def __init__(self, sections: Sequence[Section], span_id: int) -> None:
        self.sections = sections
        self.span_id = span_id
        self.has_failed = False


class Shared(NamedTuple):
    """What two prompts share, in characters.

    Attributes:
        prompt: The earlier prompt.
        prefix_chars: Length of the common prefix.
        same_chars: Characters that are the same in any position.
        change: Index of the first section that differs; `None` if one prompt begins with the other.
        change_at: Characters at the start of that section that are the same.
    """

    prompt: Prompt
    prefix_chars: int
    same_chars: int
    change: int | None
    change_at: int


class PromptHistory:
    """The newest prompts of this process, for each server and model.

    Deques are changed and copied in single steps of the interpreter, so this needs no lock.
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
        found = _find(prompt.sections, list(earlier))
        _PROMPTS.append(earlier, prompt)
        return found


def _find(new: Sequence[Section], earlier: Sequence[Prompt]) -> tuple[Shared, Shared] | None:
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
    longest = max(candidates, key=lambda each: each[0], default=None)
    if longest is None:
        return None
    compared = candidates[:_COMPARED_WHOLLY]
    if longest not in compared:
        compared.append(longest)
    shares = [_compare(new, prompt, count, chars) for chars, count, prompt in compared]
    # Of equals, the newest: `max` returns the first.
    most = max(shares, key=lambda shared: (shared.same_chars, shared.prefix_chars))
    prefix = max(shares, key=lambda shared: (shared.prefix_chars, shared is most))
    return (most, prefix) if most.same_chars else None


def _common_sections(new: Sequence[Section], old: Sequence[Section]) -> tuple[int, int]:
    count = chars = 0
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
    rest, new_digests = old[count:], {section.digest for section in new[count:]}
    known = {section.digest for section in rest}
    same, head = chars, 0
    for index, section in enumerate(new[count:]):
        if section.digest in known:
            same += section.chars
            continue
        partner = _partner(section, rest, index, len(new) - count)
        if partner is not None and partner.digest not in new_digests:
            start, end = section.common_ends(partner)
            same += start + end
            head = start if index == 0 else head
    return Shared(prompt, chars + head, same, count, head)


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

    The first sections are entries of their own, such as `system:622:2f46ab12cd34`: kind, characters
    and hash. Later ones are one entry for each ten, such as `*10:5120:0c1d2e3f4a5b`. The last
    entry has all that remain.
    """
    if not sections:
        return
    entries = [f"{s.kind}:{s.chars}:{s.digest}" for s in sections[:_SINGLE_ENTRIES]]
    start = _SINGLE_ENTRIES
    while start < len(sections):
        end = start + _GROUP if len(entries) < _ENTRIES - 1 else len(sections)
        group = sections[start:end]
        chars = sum(section.chars for section in group)
        entries.append(f"*{len(group)}:{chars}:{cache.chain(group)}")
        start = end
    yield names.PROMPT_SECTIONS, tuple(entries)
    yield names.PROMPT_CHARS, sum(section.chars for section in sections)


def reference_attributes(
    most: Shared, prefix: Shared, parts: Sequence[Part]
) -> Iterator[tuple[str, AttributeValue]]:
    """Yield what a prompt shares with earlier ones as span attributes."""
    yield names.PROMPT_REFERENCE, f"{most.prompt.span_id:016x}"
    yield names.PROMPT_COMMON_CHARS, most.prefix_chars
    yield names.PROMPT_SAME_CHARS, most.same_chars
    if most.change is not None:
        yield names.PROMPT_FIRST_CHANGE, parts[most.change].name
        yield names.PROMPT_CHANGE_AT, most.change_at
    if prefix.prompt is not most.prompt:
        yield names.PROMPT_PREFIX_REFERENCE, f"{prefix.prompt.span_id:016x}"
        yield names.PROMPT_PREFIX_CHARS, prefix.prefix_chars
