"""The kinds of operations of a pipeline, and the tracer and metrics that record them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.metrics import get_meter

from llamatelemetry import __version__
from llamatelemetry.config import FromActiveConfig
from llamatelemetry.otel.client_metrics import create_histogram
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv import metrics as specs

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.semconv.metrics import HistogramSpec

_SCOPE: Final = "llamatelemetry.pipeline"


@dataclass(frozen=True, slots=True)
class OperationKind:
    """A kind of operation.

    Attributes:
        operation: Its `gen_ai.operation.name`; `None` for a task, which the conventions lack.
        name_attribute: Attribute for the name of the operation.
        duration: Histogram of its duration; `None` without one.
    """

    operation: str | None
    name_attribute: str
    duration: HistogramSpec | None

    def span_name(self, name: str) -> str:
        """Return the span name that the conventions define."""
        return name if self.operation is None else f"{self.operation} {name}"


WORKFLOW: Final = OperationKind(
    "invoke_workflow", names.GEN_AI_WORKFLOW_NAME, specs.WORKFLOW_DURATION
)
AGENT: Final = OperationKind("invoke_agent", names.GEN_AI_AGENT_NAME, specs.AGENT_DURATION)
TOOL: Final = OperationKind("execute_tool", names.GEN_AI_TOOL_NAME, specs.TOOL_DURATION)
TASK: Final = OperationKind(None, names.TASK, None)


class PipelineInstruments:
    """A tracer and the histograms of `llamatelemetry.semconv.metrics.PIPELINE`."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = get_meter(_SCOPE, __version__, meter_provider)
        self._histograms = {spec: create_histogram(meter, spec) for spec in specs.PIPELINE}

    def record(self, spec: HistogramSpec, value: float, attributes: dict[str, str]) -> None:
        """Record one measurement."""
        self._histograms[spec].record(value, attributes)


@cache
def global_instruments() -> PipelineInstruments:
    """Return the instruments of OpenTelemetry's global providers."""
    return PipelineInstruments()


def _max_content_chars(config: LlamaTelemetryConfig) -> int | None:
    if config.capture_content not in {"span_only", "span_and_event"}:
        return None
    return config.content_max_chars


_content_limit = FromActiveConfig(_max_content_chars)


def content_max_chars() -> int | None:
    """Return the maximum length of content on spans; `None`, the default, if not captured."""
    return _content_limit.get()
