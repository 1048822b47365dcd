"""What an application does around its calls to models: workflows, steps, tools, agents, sessions.

Names, kinds and metrics are those of the GenAI conventions. All of it works with whatever
OpenTelemetry set-up there is, and does nothing without one.
"""

from __future__ import annotations

from ._decorators import PipelineTracer, agent, task, tool, workflow
from ._session import session, suppress

__all__ = ["PipelineTracer", "agent", "session", "suppress", "task", "tool", "workflow"]
