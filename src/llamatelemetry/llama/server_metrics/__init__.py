"""What llama.cpp servers count, as OpenTelemetry metrics.

`ServerMetrics` reads `/props`, `/metrics` and `/slots` of servers in threads of its own and hands
what it has read to observable instruments. What a server counts is not what a client measured:
it includes the calls of everybody else.
"""

from __future__ import annotations

from .scraper import ServerMetrics

__all__ = ["ServerMetrics"]
