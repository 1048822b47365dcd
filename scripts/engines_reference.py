#!/usr/bin/env python3
"""Write the tables of engines in docs/instrument/engines.md from the catalog of engines.

    scripts/engines_reference.py            update the page
    scripts/engines_reference.py --check    exit with 1 if the page is out of date

The text around the tables is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from _page_tables import write_tables

from llamatelemetry.genai.engines.catalog import ENGINES, Engine

PAGE = Path(__file__).parents[1] / "docs/instrument/engines.md"


def recognition() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of proofs and metrics."""
    yield "Engine", "`gen_ai.provider.name`", "Proof", "Prometheus metrics"
    for engine in ENGINES:
        provider = f"`{engine.provider}`" if engine.provider else "by host name"
        yield engine.name, provider, engine.proof, _metrics(engine)


def _metrics(engine: Engine) -> str:
    path = "–" if engine.metrics is None else f"`{engine.metrics}`"  # noqa: RUF001 - the sign of docs
    if not engine.metrics_needs:
        return path
    return engine.metrics_needs if engine.metrics is None else f"{path}, {engine.metrics_needs}"


def figures() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of figures."""
    yield "Engine", "Routes", "Plain responses", "Streams", "Unknown"
    for engine in ENGINES:
        for route in engine.routes:
            yield (
                engine.name,
                "<br>".join(f"`{path}`" for path in route.paths),
                route.known_text(),
                route.stream_text(),
                "<br>".join(route.unknown_texts()) or "nothing",
            )


def table(rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table. The first row is its header."""
    header, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join((header, "|" + "---|" * (header.count("|") - 1), *lines))


TABLES = {"recognition": lambda: table(recognition()), "figures": lambda: table(figures())}


if __name__ == "__main__":
    raise SystemExit(write_tables(PAGE, "scripts/engines_reference.py", TABLES, sys.argv[1:]))
