"""The decorators `workflow`, `task`, `tool` and `agent`, and `PipelineTracer`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from llamatelemetry.pipeline._functions import TracedFunction
from llamatelemetry.pipeline._instruments import (
    AGENT,
    TASK,
    TOOL,
    WORKFLOW,
    OperationKind,
    PipelineInstruments,
    global_instruments,
)
from llamatelemetry.pipeline._operation_span import OperationSpan
from llamatelemetry.pipeline._scopes import OperationScope
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
_Decorator = Callable[[FunctionT], FunctionT]


@overload
def workflow(function: FunctionT, /) -> FunctionT: ...
@overload
def workflow(
    name: str | None = None, /, **attributes: AttributeValue | None
) -> _Decorator[Any]: ...
def workflow(target: Any = None, /, **attributes: Any) -> Any:
    """Trace each call of a function as a workflow: a span `invoke_workflow {name}` and its duration.

    | Decorator | Name and attributes |
    |---|---|
    | `@workflow` | Name of the function, for a method with its class |
    | `@workflow("answer")` | Name "answer" |
    | `@workflow(name="answer", team="a")` | Name "answer", and an attribute `team` |

    Works for functions, coroutine functions, generators, asynchronous generators and methods.
    The span of a generator lasts from its first item to its end. It is not the current span
    between two items.

    Raises:
        TypeError: The decorated object is not a function.

    Examples:
        >>> import asyncio
        >>> from llamatelemetry import workflow
        >>> @workflow(name="answer", team="a")
        ... async def answer(question):
        ...     for word in ("It", "depends."):
        ...         yield word
        >>> async def main():
        ...     return [word async for word in answer("Why?")]
        >>> asyncio.run(main())
        ['It', 'depends.']
        >>> @workflow
        ... class Answer:
        ...     pass
        Traceback (most recent call last):
        TypeError: A decorated object must be a function or a method, got ...
    """
    return _decorated(WORKFLOW, target, attributes)


@overload
def task(function: FunctionT, /) -> FunctionT: ...
@overload
def task(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def task(target: Any = None, /, **attributes: Any) -> Any:
    """Trace each call of a function as a task: a span with its name.

    Accepts the arguments of `workflow`. The conventions have no operation name for a task, so
    its name is also in the attribute `llamatelemetry.task`.

    Examples:
        >>> from llamatelemetry import task
        >>> @task("summarize", style="short")
        ... def summary(documents):
        ...     return documents[0]
        >>> summary(["Llamas hum."])
        'Llamas hum.'
    """
    return _decorated(TASK, target, attributes)


@overload
def tool(function: FunctionT, /) -> FunctionT: ...
@overload
def tool(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def tool(target: Any = None, /, **attributes: Any) -> Any:
    """Trace each call of a function as a tool: a span `execute_tool {name}` and its duration.

    Accepts the arguments of `workflow`. The first line of the docstring becomes the description
    of the tool. Its arguments and result are recorded only if content is captured on spans.

    Examples:
        >>> from llamatelemetry import tool
        >>> @tool
        ... def search(query):
        ...     '''Find documents.'''
        ...     return [query.upper()]
        >>> search("llamas")
        ['LLAMAS']
    """
    return _decorated(TOOL, target, attributes)


@overload
def agent(function: FunctionT, /) -> FunctionT: ...
@overload
def agent(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def agent(target: Any = None, /, **attributes: Any) -> Any:
    """Trace each call of a function as an agent: a span `invoke_agent {name}`.

    Accepts the arguments of `workflow`. Its metrics are the duration, the number of inference
    calls and the number of tool calls.

    Examples:
        >>> from llamatelemetry.pipeline import agent
        >>> @agent("librarian")
        ... async def find(question):
        ...     return "page 7"
    """
    return _decorated(AGENT, target, attributes)


def _decorated(kind: OperationKind, target: Any, attributes: dict[str, Any]) -> Any:
    given = attributes.pop("name", None)
    if target is None or isinstance(target, str):
        return partial(_traced, kind, given if target is None else target, attributes)
    return _traced(kind, given, attributes, target)


def _traced(
    kind: OperationKind,
    name: str | None,
    attributes: Mapping[str, AttributeValue | None],
    function: Any,
) -> Any:
    if not _is_function(function):
        raise TypeError(
            f"A decorated object must be a function or a method, got {function!r}. "
            "Decorate a method of a class instead of the class"
        )
    known = dict(attributes)
    described = _DESCRIPTION.get(kind)
    if described is not None:
        known.setdefault(described, _first_line(function))
    named = name or _name_of(function, kind)
    return TracedFunction(
        function, kind, lambda: OperationSpan(kind, named, known, global_instruments())
    )


def _is_function(target: Any) -> bool:
    if isinstance(target, (classmethod, staticmethod)):
        return True
    return callable(target) and not inspect.isclass(target)


_DESCRIPTION = {TOOL: names.GEN_AI_TOOL_DESCRIPTION, AGENT: names.GEN_AI_AGENT_DESCRIPTION}


def _name_of(function: Any, kind: OperationKind) -> str:
    inner = _inner(function)
    if kind is TOOL:
        return cast("str", getattr(inner, "__name__", type(inner).__name__))
    qualified: str = getattr(inner, "__qualname__", type(inner).__name__)
    return qualified.rpartition("<locals>.")[2]


def _inner(function: Any) -> Any:
    """Return the function of a `functools.partial`, which has no name and no description."""
    return getattr(function, "func", function)


def _first_line(function: Any) -> str | None:
    written = inspect.getdoc(getattr(function, "__func__", _inner(function)))
    return written.partition("\n")[0] if written else None


class PipelineTracer:
    """Creates spans for the steps of an application, with its calls to models below them.

    Each method returns a context manager for `with` or `async with` that binds the span.
    Attributes that are `None` are left out. An exception marks every block that it leaves with
    its type and stack trace. Its message may quote a prompt, so it is recorded only if content
    is captured.

    | Block | Span | Metrics |
    |---|---|---|
    | `tracer.pipeline("rag")` | `invoke_workflow rag` | duration |
    | `tracer.stage("retrieve")` | `retrieve` | none |
    | `tracer.tool("search")` | `execute_tool search` | duration |
    | `tracer.agent("researcher")` | `invoke_agent researcher` | duration, inference calls, tool calls |

    Args:
        service_name: Value of `service.name` on each span, for a logical service inside the
            process; `None` for that of the resource only.
        tracer_provider: Tracer provider; the global one if `None`.
        meter_provider: Meter provider; the global one if `None`.

    Examples:
        >>> import llamatelemetry
        >>> from llamatelemetry.pipeline import PipelineTracer
        >>> config = llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True)
        >>> tracer = PipelineTracer()
        >>> with tracer.pipeline("rag", tier="gold"):
        ...     with tracer.stage("retrieve") as stage:
        ...         stage.set_attribute("top_k", 5)
        ...     with tracer.agent("writer"), tracer.tool("search"):
        ...         pass
        >>> [node.id for node in llamatelemetry.trace_graph().nodes]
        ['stage:retrieve', ...]
    """

    def __init__(
        self,
        service_name: str | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._service_name = service_name
        self._instruments = (
            global_instruments()
            if tracer_provider is None and meter_provider is None
            else PipelineInstruments(tracer_provider, meter_provider)
        )

    def pipeline(self, name: str, /, **attributes: AttributeValue | None) -> OperationScope:
        """Return the block of a whole pipeline, which the conventions call a workflow."""
        return self._block(WORKFLOW, name, attributes)

    def stage(self, name: str, /, **attributes: AttributeValue | None) -> OperationScope:
        """Return the block of one step of a pipeline."""
        return self._block(TASK, name, attributes)

    def tool(self, name: str, /, **attributes: AttributeValue | None) -> OperationScope:
        """Return the block of a tool execution."""
        return self._block(TOOL, name, attributes)

    def agent(self, name: str, /, **attributes: AttributeValue | None) -> OperationScope:
        """Return the block of an agent invocation."""
        return self._block(AGENT, name, attributes)

    def _block(
        self, kind: OperationKind, name: str, attributes: Mapping[str, AttributeValue | None]
    ) -> OperationScope:
        known = {"service.name": self._service_name, **attributes}
        return OperationScope(lambda: OperationSpan(kind, name, known, self._instruments))
