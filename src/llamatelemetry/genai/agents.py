"""The agent of a context, and how many inference and tool calls it has made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api

if TYPE_CHECKING:
    from opentelemetry.context import Context

_AGENT_KEY: Final = context_api.create_key("llamatelemetry-agent")


class AgentRun:
    """One invocation of an agent. Calls of a sub-agent count only for the sub-agent."""

    __slots__ = ("_inference_calls", "_tool_calls", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        # Appending is atomic. A signal handler or a finalizer can count in the middle of a count.
        self._inference_calls: list[None] = []
        self._tool_calls: list[None] = []

    @property
    def inference_calls(self) -> int:
        """Number of inference calls."""
        return len(self._inference_calls)

    @property
    def tool_calls(self) -> int:
        """Number of tool calls."""
        return len(self._tool_calls)

    def count_inference_call(self) -> None:
        """Count an inference call. Thread-safe."""
        self._inference_calls.append(None)

    def count_tool_call(self) -> None:
        """Count a tool call. Thread-safe."""
        self._tool_calls.append(None)


def with_agent(run: AgentRun, context: Context) -> Context:
    """Return a context in which `current_agent` returns this run."""
    return context_api.set_value(_AGENT_KEY, run, context)


def current_agent(context: Context | None = None) -> AgentRun | None:
    """Return the innermost agent of a context; of the current context if `None`."""
    run = (context_api.get_current() if context is None else context).get(_AGENT_KEY)
    return run if isinstance(run, AgentRun) else None
