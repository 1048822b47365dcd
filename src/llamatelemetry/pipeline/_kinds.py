"""The kinds of work there are: what their spans are called and say, and how they are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv import metrics as specs

if TYPE_CHECKING:
    from llamatelemetry.semconv.metrics import HistogramSpec


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of work.

    Args:
        operation: its ``gen_ai.operation.name``; the conventions have none for a task.
        name_attribute: where its name goes.
        duration: the histogram of its seconds, if there is one.
    """

    operation: str | None
    name_attribute: str
    duration: HistogramSpec | None

    def span_name(self, name: str) -> str:
        """Give the name of a span, as the conventions build it."""
        return name if self.operation is None else f"{self.operation} {name}"


WORKFLOW: Final = Kind("invoke_workflow", names.GEN_AI_WORKFLOW_NAME, specs.WORKFLOW_DURATION)
AGENT: Final = Kind("invoke_agent", names.GEN_AI_AGENT_NAME, specs.AGENT_DURATION)
TOOL: Final = Kind("execute_tool", names.GEN_AI_TOOL_NAME, specs.TOOL_DURATION)
TASK: Final = Kind(None, names.TASK, None)
