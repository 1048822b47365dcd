"""What a plugin is made of: requests and replies as data, the call lifecycle, streams, patch tables.

A plugin author meets, in this order: `PatchTable` (what to wrap), `Request` (what a wrapper
reads), `Instrumenter.start` and `Call` (the span), `read_response` or `StreamWatch` (what came of it).
"""

from __future__ import annotations

from llamatelemetry.genai.abandoned_calls import finalizer as _reaper
from llamatelemetry.genai.call import Call, Instrumenter, current_call
from llamatelemetry.genai.configured import plugin_instrumenter
from llamatelemetry.genai.model import Content, EngineTimings, Request, Response, Server, Usage
from llamatelemetry.genai.patching import PatchPoint, PatchTable
from llamatelemetry.genai.streams import AsyncIteratorTap, IteratorTap, StreamWatch
from llamatelemetry.genai.wire import read_parameters, read_response

__all__ = [
    "AsyncIteratorTap",
    "Call",
    "Content",
    "EngineTimings",
    "Instrumenter",
    "IteratorTap",
    "PatchPoint",
    "PatchTable",
    "Request",
    "Response",
    "Server",
    "StreamWatch",
    "Usage",
    "current_call",
    "flush_pending",
    "plugin_instrumenter",
    "read_parameters",
    "read_response",
    "stop_finalizer",
]


def flush_pending(timeout_s: float) -> bool:
    """End the calls whose streams were abandoned. False when that took longer than ``timeout_s``."""
    return _reaper.flush(timeout_s)


def stop_finalizer(timeout_s: float) -> bool:
    """Stop the thread that ends abandoned calls; it starts again with the next stream."""
    return _reaper.stop(timeout_s)
