"""Responses of `/metrics` of each engine, and how they are read.

The texts of vLLM are true responses. The others have the names, labels and traps of the engines'
sources.
"""

from __future__ import annotations

from pathlib import Path

from llamatelemetry.server_metrics.exposition import Values, find_engine, read_figures

TEXTS = Path(__file__).parents[1] / "support" / "engine_metrics"


def text_of(engine: str) -> str:
    return (TEXTS / f"{engine}.txt").read_text()


def read(text: str) -> dict[tuple[str | None, str], Values]:
    engine = find_engine(text)
    assert engine is not None
    figures = read_figures(engine, text)
    assert {group.provider for group in figures} <= {engine.provider}
    return {(group.model, group.replica): values for group, values in figures.items()}
