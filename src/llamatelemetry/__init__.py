"""llamatelemetry: an OpenTelemetry distribution for LLM inference.

Importing this package takes no action. Public names are loaded on first use (PEP 562), so
that a plugin which needs only the core never imports the SDK or an optional package.
"""

from __future__ import annotations

__version__ = "1.2.0"
