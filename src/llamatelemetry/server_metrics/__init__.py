"""Metrics of llama.cpp servers as OpenTelemetry metrics.

`ServerMetrics` scrapes `/props`, `/metrics` and `/slots` of servers on its own threads, and reports
them through observable instruments. These metrics cover all clients of a server, unlike the
metrics that one client measures.
"""

from __future__ import annotations

from llamatelemetry.server_metrics.scraper import ServerMetrics

__all__ = ["ServerMetrics"]
