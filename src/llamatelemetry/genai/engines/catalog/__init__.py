"""What each engine reports of a call by itself, and what makes it report more.

This is data for people: `llamatelemetry doctor` and docs/instrument/engines.md show it. A test reads a
response of each route with the readers of this package and compares the result with this table.
"""

from __future__ import annotations

from typing import Final

from llamatelemetry.genai.engines.catalog.entry import FIGURES, Engine, Route, Source, Unknown
from llamatelemetry.genai.engines.catalog.servers import SERVERS
from llamatelemetry.genai.engines.catalog.services import SERVICES

__all__ = ["ENGINES", "ENGINE_BY_PROVIDER", "FIGURES", "Engine", "Route", "Source", "Unknown"]

ENGINES: Final = (*SERVERS, *SERVICES)
ENGINE_BY_PROVIDER: Final = {engine.provider: engine for engine in ENGINES if engine.provider}
