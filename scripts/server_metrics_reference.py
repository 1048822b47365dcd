#!/usr/bin/env python3
"""Write the tables of metrics in docs/observe/server-metrics.md from the vocabulary and the engines' tables.

    scripts/server_metrics_reference.py            update the page
    scripts/server_metrics_reference.py --check    exit with 1 if the page is out of date

The text around the tables is written by hand.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from _page_tables import write_tables

from llamatelemetry.server_metrics.engines import ENGINES, Engine, Source
from llamatelemetry.server_metrics.vocabulary import DURATIONS, FIGURES, UP

PAGE = Path(__file__).parents[1] / "docs/observe/server-metrics.md"
NOT_EXPOSED = "not exposed"
FACTORS = {1e-3: "in milliseconds", 1e-6: "in microseconds"}


def vocabulary() -> str:
    """Return the table of the common metrics."""
    rows = [
        "| Metric `llamatelemetry.server.` | Unit | Instrument | Description |",
        "|---|---|---|---|",
    ]
    for figure in (*FIGURES, UP):
        detail = f" Attribute `{figure.detail}`." if figure.detail else ""
        row = (f"`{figure.name}`", f"`{figure.unit}`", figure.kind, figure.description + detail)
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def engines() -> str:
    """Return one section for each engine."""
    return "\n\n".join("\n".join(section(engine)) for engine in ENGINES)


def section(engine: Engine) -> Iterator[str]:
    """Yield the lines about one engine: its figures, and the unknown ones by reason."""
    proof = f"the metric `{engine.proof}`" if engine.proof else f"the prefix `{engine.prefix}`"
    yield f"### {engine.title}"
    yield ""
    yield f"`gen_ai.provider.name` is `{engine.provider}`. Recognized by {proof}."
    yield ""
    if engine.sources:
        yield "| Metric `llamatelemetry.server.` | Read from |"
        yield "|---|---|"
        for name in base_figures():
            if name in engine.sources:
                text = shown(engine, engine.sources[name], is_duration=name in DURATIONS)
                yield f"| `{name}` | {text} |"
        yield ""
    reasons = "; ".join(unknown(engine))
    yield f"Unknown: {reasons}." if reasons else "No metric is unknown."


def base_figures() -> list[str]:
    """Return the names of the figures without the counts and buckets of durations."""
    return [figure.name for figure in FIGURES if "." not in figure.name]


def unknown(engine: Engine) -> Iterator[str]:
    """Yield the unknown figures of an engine with the reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name in base_figures():
        if name not in engine.sources:
            reason = engine.unknown.get(name) or engine.unknown.get("") or NOT_EXPOSED
            by_reason[reason].append(f"`{name}`")
    for reason, names in sorted(by_reason.items(), key=lambda each: each[0] == NOT_EXPOSED):
        yield f"{', '.join(names)} ({reason})"
    if counts := [n for n in engine.sources if n in DURATIONS and not has_count(engine.sources[n])]:
        names = ", ".join(f"`{name}.count`, `{name}.bucket`" for name in counts)
        yield f"{names} (only the sum of the durations)"
    if buckets := [n for n in engine.sources if engine.sources[n].count]:
        yield ", ".join(f"`{name}.bucket`" for name in buckets) + " (no histogram)"


def has_count(source: Source) -> bool:
    """Return whether the number of durations is known."""
    return source.kind == "histogram" or source.count is not None


def shown(engine: Engine, source: Source, *, is_duration: bool) -> str:
    """Return the metric of a figure as text."""
    labels = ",".join(f'{label}="{value}"' for label, value in source.where)
    names = [
        f"`{engine.prefix}{name}{{{labels}}}`" if labels else f"`{engine.prefix}{name}`"
        for name in source.names
    ]
    text = " or ".join(names)
    if source.plus:
        text += f" + `{engine.prefix}{source.plus}`"
    notes = [source.kind]
    if source.kind == "histogram" and not is_duration:
        notes[0] = "sum of a histogram"
    if source.scale in FACTORS:
        notes.append(FACTORS[source.scale])
    if source.count:
        notes.append(f"number: `{engine.prefix}{source.count}`")
    return f"{text} ({', '.join(notes)})"


TABLES = {"vocabulary": vocabulary, "engines": engines}


if __name__ == "__main__":
    raise SystemExit(
        write_tables(PAGE, "scripts/server_metrics_reference.py", TABLES, sys.argv[1:])
    )
