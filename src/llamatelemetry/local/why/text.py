"""An explanation as text for the terminal: totals, causes of cache misses, slow calls."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry._table import html_table
from llamatelemetry._terminal import printable
from llamatelemetry.local.why.explanation import CAUSE_TITLES, NORMAL, PART_TITLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llamatelemetry.local.why.explanation import (
        CallExplanation,
        Explanation,
        Part,
        ServerRates,
    )

_SHOWN_CALLS: Final = 10
_MIN_SHOWN_MS: Final = 0.5


def as_text(explanation: Explanation, *, shown: int = _SHOWN_CALLS) -> str:
    """Return the explanation as lines: totals, then the slowest calls that were not normal."""
    if not explanation.calls:
        if explanation.servers:
            return "No call selected."
        return "\n".join(explanation.notes) or "No LLM call recorded."
    lines = [_headline(explanation), *_rates(explanation.servers), "", *_totals(explanation)]
    if again := list(_again(explanation.calls)):
        lines += ["", *again]
    slow = _slow_calls(explanation)
    for call in slow[:shown]:
        lines += ["", call_text(call, unknown=False)]
    if len(slow) > shown:
        lines += ["", f"{len(slow) - shown} more calls were slow; --json lists them all."]
    if not slow:
        lines += ["", "No call was slow for a reason other than its own work."]
    hints = {text: None for call in slow[:shown] for text in call.unknown}
    if explanation.notes or hints:
        lines += ["", "Unknown", *(f"  {text}" for text in (*explanation.notes, *hints))]
    return "\n".join(lines)


def as_html(explanation: Explanation) -> str:
    """Return the totals and the slowest calls that were not normal as tables for a notebook."""
    if not explanation.calls:
        return as_text(explanation)
    total = explanation.duration_ms or 1.0
    totals = [
        [row.title, f"{row.ms / 1000:,.1f}", f"{row.ms / total:.1%}", f"{row.calls:,}"]
        for row in _total_rows(explanation)
    ]
    tables = [html_table(_headline(explanation), ["Part", "Seconds", "Share", "Calls"], totals)]
    slow = [[call.span_id[:6], call.sentence] for call in _slow_calls(explanation)[:_SHOWN_CALLS]]
    if slow:
        tables.append(html_table("Slow calls", ["Call", "Why"], slow, texts=2))
    return "".join(tables)


def _slow_calls(explanation: Explanation) -> list[CallExplanation]:
    """Return the calls that were not normal, longest causes first."""
    slow = [call for call in explanation.calls if call.top_cause != NORMAL]
    return sorted(slow, key=lambda call: -sum(part.excess_ms for part in call.causes))


def call_text(call: CallExplanation, *, unknown: bool = True) -> str:
    """Return one call as lines: its size, its top cause, and its parts with their evidence.

    Args:
        call: The call.
        unknown: Whether to add what could not be known.
    """
    tokens = [
        f"{number:,} {word}"
        for number, word in (
            (call.input_tokens, "in"),
            (call.cached_tokens, "cached"),
            (call.output_tokens, "out"),
        )
        if number is not None
    ]
    size = f"  tokens: {', '.join(tokens)}" if tokens else ""
    failed = f"  failed: {printable(call.error, lines=False)}" if call.error else ""
    head = f"{call.span_id[:6]}  {call.duration_ms:,.0f} ms{size}{failed}  -> {call.top_cause}"
    lines = [_part_line(part, call.duration_ms) for part in call.parts if part.ms >= _MIN_SHOWN_MS]
    hints = [f"  unknown: {text}" for text in call.unknown] if unknown else []
    return "\n".join([head, *lines, *hints])


def _part_line(part: Part, duration_ms: float) -> str:
    share = part.ms / duration_ms if duration_ms else 0.0
    evidence = f": {printable(part.evidence, lines=False)}" if part.evidence else ""
    return f"  {part.ms:8,.0f} ms {share:4.0%}  {part.title}{evidence}"


def _headline(explanation: Explanation) -> str:
    count = len(explanation.calls)
    seconds = explanation.duration_ms / 1000
    text = f"{count:,} {'call' if count == 1 else 'calls'} explained; {seconds:,.1f} s in calls"
    if explanation.application_ms >= 1:
        text += f", {explanation.application_ms / 1000:,.1f} s between the calls of a trace"
    return text


def _rates(servers: Sequence[ServerRates]) -> Iterator[str]:
    runs = {server.run for server in servers}
    for server in servers:
        where = server.server or "in this process"
        name = f"{where} {printable(server.model or '', lines=False)}".strip() + (
            f", run {server.run}" if len(runs) > 1 else ""
        )
        if server.prefill_ms_per_token is None:
            yield f"{name}: rates unknown, {server.undisturbed} of {server.calls} calls ran alone"
            continue
        decode = server.decode_ms_per_token
        output = "" if decode is None else f", {decode:.2f} ms per output token"
        yield (
            f"{name}: {server.prefill_ms_per_token:.2f} ms per prompt token + "
            f"{server.prefill_base_ms:.0f} ms{output}; measured from {server.undisturbed} "
            "undisturbed calls"
        )


class _Row(NamedTuple):
    title: str
    calls: int
    ms: float


def _total_rows(explanation: Explanation) -> list[_Row]:
    rows: dict[str, _Row] = {}
    for call in explanation.calls:
        for part in call.parts:
            before = rows.get(part.name) or _Row(PART_TITLES[part.name], 0, 0.0)
            rows[part.name] = before._replace(calls=before.calls + 1, ms=before.ms + part.ms)
    shown = sorted(rows.values(), key=lambda row: -row.ms)
    return [row for row in shown if row.ms >= _MIN_SHOWN_MS]


def _totals(explanation: Explanation) -> list[str]:
    total = explanation.duration_ms or 1.0
    lines = [f"{'Where the time of the calls went':36}{'s':>9}{'%':>7}{'calls':>8}"]
    lines += [
        f"  {row.title:34}{row.ms / 1000:9,.1f}{row.ms / total:7.1%}{row.calls:8,}"
        for row in _total_rows(explanation)
    ]
    return lines


def _again(calls: Iterable[CallExplanation]) -> Iterator[str]:
    """Yield the causes of prompts that were not in the cache, as a table."""
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for call in calls:
        for part in call.parts:
            if part.name == "prefill_again" and part.cause is not None:
                rows[part.cause].append(part.ms)
    if rows:
        yield f"{'Prompts not in the cache because':36}{'s':>9}{'calls':>15}"
    for cause, found in sorted(rows.items(), key=lambda item: -sum(item[1])):
        yield f"  {CAUSE_TITLES[cause]:34}{sum(found) / 1000:9,.1f}{len(found):15,}"
