"""The decorators, with arguments and without, and the tracer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from llamatelemetry.pipeline._functions import TracedFunction
from llamatelemetry.pipeline._instruments import Instruments, global_instruments
from llamatelemetry.pipeline._kinds import AGENT, TASK, TOOL, WORKFLOW, Kind
from llamatelemetry.pipeline._scopes import WorkScope
from llamatelemetry.pipeline._work import Work
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
    """Make each call of a function a workflow: a span ``invoke_workflow {name}`` and its duration.

    ======================================  =====================================================
    ``@workflow``                           named as the function, with its class for a method
    ``@workflow("answer")``                 named "answer"
    ``@workflow(name="answer", team="a")``  and with an attribute of your own
    ======================================  =====================================================

    Functions, coroutine functions, generators and asynchronous generators, and methods. A
    generator's span lasts from its first item to its end; between two items it is not current.

    Raises:
        TypeError: what is decorated is no function.
    """
    return _decorated(WORKFLOW, target, attributes)


@overload
def task(function: FunctionT, /) -> FunctionT: ...
@overload
def task(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def task(target: Any = None, /, **attributes: Any) -> Any:
    """Make each call of a function a step: a span with its name. Arguments as for `workflow`.

    The conventions have no operation for it: its name is also in ``llamatelemetry.task``.
    """
    return _decorated(TASK, target, attributes)


@overload
def tool(function: FunctionT, /) -> FunctionT: ...
@overload
def tool(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def tool(target: Any = None, /, **attributes: Any) -> Any:
    """Make each call of a function a tool's execution: ``execute_tool {name}`` and its duration.

    Arguments as for `workflow`. The first line of the docstring is the tool's description. What
    the tool is given and gives back is recorded only where content is captured on spans.
    """
    return _decorated(TOOL, target, attributes)


@overload
def agent(function: FunctionT, /) -> FunctionT: ...
@overload
def agent(name: str | None = None, /, **attributes: AttributeValue | None) -> _Decorator[Any]: ...
def agent(target: Any = None, /, **attributes: Any) -> Any:
    """Make each call of a function an agent's invocation: ``invoke_agent {name}``.

    Arguments as for `workflow`. Its metrics are its duration, and how many calls to models and
    executions of tools it took.
    """
    return _decorated(AGENT, target, attributes)


def _decorated(kind: Kind, target: Any, attributes: dict[str, Any]) -> Any:
    given = attributes.pop("name", None)
    if target is None or isinstance(target, str):
        return partial(_traced, kind, given if target is None else target, attributes)
    return _traced(kind, given, attributes, target)


def _traced(
    kind: Kind, name: str | None, attributes: Mapping[str, AttributeValue | None], function: Any
) -> Any:
    if not _is_function(function):
        raise TypeError(
            f"{function!r} cannot be decorated: decorate a function or a method, such as the one "
            "of a class that does the work"
        )
    known = dict(attributes)
    described = _DESCRIPTION.get(kind)
    if described is not None:
        known.setdefault(described, _first_line(function))
    named = name or _name_of(function, kind)
    return TracedFunction(function, kind, lambda: Work(kind, named, known, global_instruments()))


def _is_function(target: Any) -> bool:
    if isinstance(target, (classmethod, staticmethod)):
        return True
    return callable(target) and not inspect.isclass(target)


_DESCRIPTION = {TOOL: names.GEN_AI_TOOL_DESCRIPTION, AGENT: names.GEN_AI_AGENT_DESCRIPTION}


def _name_of(function: Any, kind: Kind) -> str:
    inner = getattr(function, "func", function)  # a functools.partial has no name of its own
    if kind is TOOL:
        return cast("str", getattr(inner, "__name__", type(inner).__name__))
    qualified: str = getattr(inner, "__qualname__", type(inner).__name__)
    return qualified.rpartition("<locals>.")[2]


def _first_line(function: Any) -> str | None:
    written = inspect.getdoc(getattr(function, "__func__", function))
    return written.partition("\n")[0] if written else None


class PipelineTracer:
    """Spans around the steps of an application, with the calls they make below them.

    Each method gives a block for ``with`` or ``async with`` that binds its span; attributes that
    are ``None`` are left out. An exception marks every block that it leaves, with its type and
    the place; with its words only where content is captured, for they may quote a prompt.

    ==============================  ====================  ===========================
    block                           span                  metrics
    ==============================  ====================  ===========================
    ``tracer.pipeline("rag")``      invoke_workflow rag   duration
    ``tracer.stage("retrieve")``    retrieve
    ``tracer.tool("search")``       execute_tool search   duration
    ``tracer.agent("researcher")``  invoke_agent ...      duration, calls, tools
    ==============================  ====================  ===========================

    Args:
        service_name: the logical service that this is part of, as ``service.name`` on each span;
            that of the resource counts when ``None``.
        tracer_provider: OpenTelemetry's global one when ``None``.
        meter_provider: likewise.
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
            else Instruments(tracer_provider, meter_provider)
        )

    def pipeline(self, name: str, /, **attributes: AttributeValue | None) -> WorkScope:
        """Give the block of a whole pipeline: a workflow in the conventions' words."""
        return self._block(WORKFLOW, name, attributes)

    def stage(self, name: str, /, **attributes: AttributeValue | None) -> WorkScope:
        """Give the block of one step of it."""
        return self._block(TASK, name, attributes)

    def tool(self, name: str, /, **attributes: AttributeValue | None) -> WorkScope:
        """Give the block in which a tool runs."""
        return self._block(TOOL, name, attributes)

    def agent(self, name: str, /, **attributes: AttributeValue | None) -> WorkScope:
        """Give the block in which an agent works."""
        return self._block(AGENT, name, attributes)

    def _block(
        self, kind: Kind, name: str, attributes: Mapping[str, AttributeValue | None]
    ) -> WorkScope:
        known = {"service.name": self._service_name, **attributes}
        return WorkScope(lambda: Work(kind, name, known, self._instruments))
