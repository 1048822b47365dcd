"""`llamatelemetry why`: explain where the time of recorded calls went."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import typer

from llamatelemetry._terminal import printable
from llamatelemetry.local.store import StoreError
from llamatelemetry.local.why import APPLICATION, CAUSE_TITLES, PART_TITLES, why
from llamatelemetry.local.why.explanation import application_ms
from llamatelemetry.local.why.text import as_text, call_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llamatelemetry.local.why import CallExplanation, Explanation

_USAGE: Final = 2
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LIMIT: Final = re.compile(r"([a-z_]+)(?::([a-z_]+))?\s*>\s*(\d+(?:\.\d+)?)\s*(%|ms|s)")

Value = TypeVar("Value")


class _Limit(NamedTuple):
    """A limit of `--fail-on`. The unit is `%` of the time in calls, or ms."""

    text: str
    part: str
    cause: str | None
    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> _Limit:
        found = _LIMIT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"must be PART>NUMBER with %, ms or s, got {text!r}")
        part, cause, number, unit = found.groups()
        if part not in {*PART_TITLES, APPLICATION}:
            raise ValueError(f"must name one of {', '.join(PART_TITLES)}, got {part!r}")
        if cause is not None and (part != "prefill_again" or cause not in CAUSE_TITLES):
            raise ValueError(f"must name a cause among {', '.join(CAUSE_TITLES)}, got {cause!r}")
        value = float(number) * (1000 if unit == "s" else 1)
        return cls(text, part, cause, value, "%" if unit == "%" else "ms")

    def is_exceeded(self, explanation: Explanation) -> bool:
        return self._measure(explanation) > self.value

    def measured(self, explanation: Explanation) -> str:
        return f"measured {self._measure(explanation):,.1f} {self.unit}"

    def _measure(self, explanation: Explanation) -> float:
        if self.cause is None:
            ms = explanation.totals.get(self.part, 0.0)
        else:
            parts = (part for call in explanation.calls for part in call.parts)
            ms = sum(p.ms for p in parts if p.name == self.part and p.cause == self.cause)
        if self.unit == "ms":
            return ms
        total = explanation.duration_ms
        total += explanation.application_ms if self.part == APPLICATION else 0.0
        return 100 * ms / total if total else 0.0


class _Slow(NamedTuple):
    """A limit of `--slow`: a multiple of the median of an operation and model, or ms."""

    value: float
    is_multiple: bool

    @classmethod
    def parse(cls, text: str) -> _Slow:
        number, is_multiple = text.removesuffix("x"), text.endswith("x")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ValueError(f"must be a multiple such as 2x, or seconds such as 1.5, got {text!r}")
        return cls(value if is_multiple else 1000 * value, is_multiple)

    def select(self, calls: Sequence[CallExplanation]) -> list[CallExplanation]:
        if not self.is_multiple:
            return [call for call in calls if call.duration_ms > self.value]
        groups: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)
        for call in calls:
            groups[call.operation, call.model].append(call.duration_ms)
        medians = {key: statistics.median(found) for key, found in groups.items()}
        return [
            call
            for call in calls
            if call.duration_ms > self.value * medians[call.operation, call.model]
        ]


def _since_ns(text: str) -> int:
    """Return the start of a period such as `10m`, or an ISO time, in ns since the epoch."""
    try:
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
            return time.time_ns() - int(float(found[1]) * _SECONDS[found[2]] * 1e9)
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"must be a period such as 10m, or an ISO time, got {text!r}") from error


def run_why(
    path: Path | None,
    *,
    call: str | None = None,
    slow: str | None = None,
    since: str | None = None,
    as_json: bool = False,
    fail_on: Sequence[str] = (),
) -> int:
    """Print the explanation of recorded calls.

    Returns:
        The exit status: 0; 1 if a limit of `fail_on` is exceeded, or there is no call to check it
        on, or nothing can be read; 2 if `call` names no call.
    """
    limits = [_parsed("--fail-on", _Limit.parse, text) for text in fail_on]
    start_ns = None if since is None else _parsed("--since", _since_ns, since)
    least = None if slow is None else _parsed("--slow", _Slow.parse, slow)
    try:
        explanation = why(path)
    except (OSError, StoreError, ValueError) as error:
        return _error(str(error), 1)
    if start_ns is not None:
        later = [c for c in explanation.calls if c.start_ns >= start_ns]
        explanation = replace(explanation, calls=later, application_ms=application_ms(later))
    is_empty = not explanation.calls  # Unlike this, no slow call is a result.
    if least is not None:
        explanation = _only(explanation, least.select(explanation.calls))
    if call is not None:
        chosen = [c for c in explanation.calls if c.span_id.startswith(call.lower())]
        chosen = chosen or [c for c in explanation.calls if c.trace_id.startswith(call.lower())]
        if not chosen:
            return _error(f"no call has a span or trace id that starts with {call}", _USAGE)
        explanation = _only(explanation, chosen)
    if as_json:
        text = json.dumps(explanation.to_dict(), indent=2)
    elif call is not None:
        text = "\n\n".join(call_text(each) for each in explanation.calls)
    else:
        text = as_text(explanation)
    typer.echo(text if as_json else printable(text, lines=True))
    if limits and is_empty:
        return _error("--fail-on: no call was recorded, so no limit could be checked", 1)
    exceeded = [limit for limit in limits if limit.is_exceeded(explanation)]
    for limit in exceeded:
        _error(f"{limit.text}: {limit.measured(explanation)}", 1)
    return 1 if exceeded else 0


def _parsed(option: str, parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _error(message: str, status: int) -> int:
    sys.stderr.write(f"error: {printable(message)}\n")
    return status


def _only(explanation: Explanation, calls: Sequence[CallExplanation]) -> Explanation:
    # Between selected calls there are others, so the time of the application is unknown.
    return replace(explanation, calls=calls, application_ms=0.0)
