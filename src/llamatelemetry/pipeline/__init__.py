"""Spans around calls to models: workflows, tasks, tools, agents and sessions.

Names, kinds and metrics follow the GenAI conventions. Everything works with any OpenTelemetry
set-up, and does nothing without one.
"""

from __future__ import annotations

from llamatelemetry.pipeline._decorators import PipelineTracer, agent, task, tool, workflow
from llamatelemetry.pipeline._scopes import session, suppress

__all__ = ["PipelineTracer", "agent", "session", "suppress", "task", "tool", "workflow"]
