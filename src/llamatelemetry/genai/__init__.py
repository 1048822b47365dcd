"""What a plugin is made of: requests and replies as data, the call lifecycle, streams, patch tables.

A plugin author meets, in this order: `PatchTable` (what to wrap), `Request` (what a wrapper
reads), `Instrumenter.start` and `Call` (the span), `read_response` or `StreamWatch` (what came of it).
"""

from __future__ import annotations

from time import monotonic

from llamatelemetry.genai.streams.abandoned_calls import finalizer as _finalizer
from llamatelemetry.genai.call import Call, Instrumenter, current_call
from llamatelemetry.genai.configured import plugin_instrumenter
from llamatelemetry.genai.deferred_metrics import wait_for_thread
from llamatelemetry.genai.model import Content, EngineTimings, Request, Response, Server, Usage
from llamatelemetry.genai.patching import PatchPoint, PatchTable
from llamatelemetry.genai.streams.observers import AsyncIteratorTap, IteratorTap, StreamWatch
from llamatelemetry.genai.wire.openai_chat import read_parameters, read_response

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
    """End the calls whose streams were abandoned. Return whether `timeout_s` was enough."""
    return _finalizer.flush(timeout_s)


def stop_finalizer(timeout_s: float) -> bool:
    """Stop the threads that end abandoned calls and record metrics. Return whether they stopped.

    They start again when they are needed.
    """
    deadline_s = monotonic() + timeout_s
    stopped = _finalizer.stop(timeout_s)
    return wait_for_thread(max(0.0, deadline_s - monotonic())) and stopped
