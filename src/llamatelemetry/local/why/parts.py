"""Divide the duration of a call into parts. Each rule takes from what the rules before it left.

The segments of a call add up to its duration, and a part is never longer than what is left of its
segment, so that parts add up and are never negative, whatever was recorded. What no rule takes is
`unexplained`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.local.why.explanation import PART_TITLES, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

_ORDER: Final = {name: number for number, name in enumerate(PART_TITLES)}
_NOISE_MS: Final = 0.005
_WHERE: Final = {
    "before": "before the request was sent",
    "wait": "between the request and the start of its processing",
    "prefill": "in the prefill",
    "decode": "in the decode",
    "stream": "after the engine's times, in the network or the client",
    "late": "after the last data",
}


class Ledger:
    """Segments of a call. Rules move their time to parts."""

    def __init__(self, where: Mapping[str, str] | None = None, **segments: float) -> None:
        self._where = {**_WHERE, **(where or {})}
        self.left = {name: max(0.0, ms) for name, ms in segments.items()}
        self._taken: list[Part] = []

    def take(
        self,
        segment: str,
        name: str,
        ms: float,
        evidence: str,
        *,
        cause: str | None = None,
        usual: float = 0.0,
    ) -> float:
        """Move at most `ms` from a segment to a part. Return the ms that were moved."""
        moved = min(self.left[segment], ms)
        if moved <= _NOISE_MS:
            return 0.0
        self.left[segment] -= moved
        self._taken.append(Part(name, moved, evidence, cause, min(usual, moved)))
        return moved

    def parts(self, duration: float) -> list[Part]:
        """Return the parts in time order, with `unexplained` as the rest of the duration."""
        found: dict[str, Part] = {}
        for part in self._taken:
            found[part.name] = _merged(found.get(part.name), part)
        rest = duration - sum(part.ms for part in found.values())
        if rest > 0:
            where = [
                f"{ms:,.0f} ms {self._where[segment]}"
                for segment, ms in self.left.items()
                if ms >= 1
            ]
            found["unexplained"] = _merged(
                found.get("unexplained"), Part("unexplained", rest, "; ".join(where))
            )
        return sorted(found.values(), key=lambda part: _ORDER[part.name])


def _merged(before: Part | None, part: Part) -> Part:
    if before is None:
        return part
    larger, other = (before, part) if before.ms >= part.ms else (part, before)
    texts = [each.evidence for each in (larger, other) if each.evidence and each.ms >= 1]
    evidence = "; ".join(dict.fromkeys(texts or [larger.evidence]))
    ms, usual = before.ms + part.ms, before.usual_ms + part.usual_ms
    return Part(part.name, ms, evidence, larger.cause, usual)
