#!/usr/bin/env python3
"""Write the tables of engines in docs/engines.md from the catalog of engines.

    scripts/engines_reference.py            update the page
    scripts/engines_reference.py --check    exit with 1 if the page is out of date

The text around the tables is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from llamatelemetry.genai.engines.catalog import ENGINES, Engine

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
NOTE = "written by scripts/engines_reference.py"


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


TABLES = {"recognition": recognition, "figures": figures}


def with_tables(page: str) -> str:
    """Return the page with the current tables."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name}: {NOTE} -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise SystemExit(
                f"{PAGE.name} must contain the lines {begin.strip()} and {end.strip()}"
            )
        header, *lines = (f"| {' | '.join(row)} |" for row in rows())
        rule = "|" + "---|" * (header.count("|") - 1)
        page = "\n".join((f"{before}{begin}", header, rule, *lines, "", f"{end}{after}"))
    return page


def main(arguments: list[str]) -> int:
    """Update or check the page. Return the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    current = with_tables(page)
    if arguments != ["--check"]:
        PAGE.write_text(current, encoding="utf-8")
        return 0
    if page != current:
        print(f"{PAGE.name} is out of date. Run scripts/engines_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
