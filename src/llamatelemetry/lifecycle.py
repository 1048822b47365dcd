"""`init()`, `flush()`, `shutdown()` and `trace_graph()`: set up and stop telemetry in code."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry import genai
from llamatelemetry._optional import MissingPackageError, required_by
from llamatelemetry._setup_in_progress import setup_in_progress
from llamatelemetry.config import (
    OPTIONS,
    LlamaTelemetryConfig,
    effective_config,
    sdk_disabled,
    set_active_config,
)
from llamatelemetry.genai import internal_errors
from llamatelemetry.otel.process.deadline import Deadline, flush_global_providers
from llamatelemetry.otel.process.forking import ForkSafeLock
from llamatelemetry.otel.redaction.options import with_valid_rules
from llamatelemetry.otel.trace_graph.graph import GRAPHS_DISABLED

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.distro import LlamaTelemetryConfigurator, Setup
    from llamatelemetry.local.call_history import CallHistory
    from llamatelemetry.local.summary_table import CallsSummary
    from llamatelemetry.otel.trace_graph.graph import TraceGraph
    from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor

_logger = logging.getLogger("llamatelemetry.lifecycle")
_lock = ForkSafeLock()


def init(  # noqa: PLR0917 - the contract allows positional arguments
    service_name: str | None = None,
    service_version: str | None = None,
    otlp_endpoint: str | None = None,
    enable_metrics: bool | None = None,
    gpu_enrichment: bool | str | None = None,
    enable_trace_graphs: bool | None = None,
    span_processors: Sequence[SpanProcessor] | None = None,
    *,
    config: LlamaTelemetryConfig | None = None,
    **options: Any,
) -> LlamaTelemetryConfig:
    """Set up tracing, metrics and logs for this process, as `opentelemetry-instrument` does.

    Explicit arguments win over `config`, `config` over `LLAMATELEMETRY_*` variables, and these
    over `OTEL_*` variables. If OpenTelemetry is already set up, `init` attaches to it: by an
    earlier call, without code, or by the application. It prepends span processors, changes the
    options that can still change, and logs one warning that names the ignored ones.

    Args:
        service_name: Name of the service on the resource.
        service_version: Version of the service on the resource.
        otlp_endpoint: Base URL of the collector, or the full URL of one signal.
        enable_metrics: Whether metrics are recorded.
        gpu_enrichment: `True`, `False`, or "genai" to add GPU attributes to GenAI spans only.
        enable_trace_graphs: Whether the graph of each trace is kept for `trace_graph()`.
        span_processors: Span processors that run before the exporters.
        config: Further options.
        **options: Further fields of `LlamaTelemetryConfig`.

    Returns:
        The effective options.

    Raises:
        TypeError: An option is unknown, and the message names the most similar one. Or `config` is
            no `LlamaTelemetryConfig`.
        ValueError: An option has an invalid value.

    Examples:
        >>> import llamatelemetry
        >>> config = llamatelemetry.init("shop", exporter="none", environment="test")
        >>> config.service_name, config.enable_metrics
        ('shop', True)
        >>> llamatelemetry.init(exporters="none")
        Traceback (most recent call last):
        TypeError: Unknown option 'exporters'. Did you mean 'exporter'?
    """
    explicit: dict[str, Any] = {
        "service_name": service_name,
        "service_version": service_version,
        "otlp_endpoint": otlp_endpoint,
        "enable_metrics": enable_metrics,
        "gpu_enrichment": gpu_enrichment,
        "enable_trace_graphs": enable_trace_graphs,
        "span_processors": span_processors,
        **options,
    }
    wanted = with_valid_rules(effective_config(config, **explicit))
    if sdk_disabled():
        return wanted
    with _lock.held(), setup_in_progress():
        setup = _running_setup()
        if setup is not None:
            wanted = _attach(setup, wanted, _requested_names(config, explicit))
        else:
            _set_up(wanted)
        set_active_config(wanted)
        return wanted


def flush(timeout_s: float = 5.0) -> bool:
    """Export everything recorded so far.

    Args:
        timeout_s: Time limit in seconds.

    Returns:
        `True` if everything was exported within `timeout_s`, and no export has failed since the
        last call.

    Examples:
        >>> import llamatelemetry
        >>> config = llamatelemetry.init("nightly", exporter="file", export_path="telemetry")
        >>> @llamatelemetry.workflow
        ... def import_documents():
        ...     return 3
        >>> import_documents()
        3
        >>> llamatelemetry.flush(timeout_s=10)
        True
    """
    deadline = Deadline(timeout_s)
    ended = genai.flush_pending(deadline.remaining_s)
    flushed = flush_global_providers(deadline)
    setup = _setup()
    failed = setup is not None and setup.monitor.take_failure()
    return ended and flushed and not failed


def shutdown(timeout_s: float = 5.0) -> bool:
    """Flush, revert every patch and stop every thread. `init()` works again afterwards.

    A provider that the application set stays unchanged.

    Args:
        timeout_s: Time limit in seconds.

    Returns:
        `True` if everything was exported and stopped within `timeout_s`.

    Examples:
        >>> import llamatelemetry
        >>> config = llamatelemetry.init("first", exporter="none")
        >>> llamatelemetry.shutdown()
        True
        >>> llamatelemetry.init("second", exporter="none").service_name
        'second'
    """
    deadline = Deadline(timeout_s)
    with _lock.held(), setup_in_progress():
        if "llamatelemetry.distro" in sys.modules:
            from llamatelemetry.distro import instrumentors

            instrumentors.uninstrument_all()
        genai.end_open_streams()
        # Leaves some time for the other steps if a collector does not respond.
        flushed = flush(timeout_s * 0.8)
        finalized = genai.stop_finalizer(deadline.remaining_s)
        setup = _setup()
        stopped = setup is None or setup.stop(deadline, at_once=not flushed)
        _forget_setup()
        set_active_config(None)
        return flushed and finalized and stopped


def trace_graph(trace_id: int | str | None = None) -> TraceGraph:
    """Return the graph of a trace: services, pipelines, models, servers, slots and GPUs.

    Args:
        trace_id: Id of one of the last 256 traces, as a number or in hexadecimal; all traces if
            `None`.

    Returns:
        A copy of the graph. Nodes and edges have counts, latency, tokens and errors. Edges
        between GPUs show their connection.

    Raises:
        RuntimeError: Trace graphs are disabled.
        KeyError: The trace is not among the recent ones.

    Examples:
        >>> import llamatelemetry
        >>> config = llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True)
        >>> @llamatelemetry.workflow
        ... def answer(question):
        ...     return "42"
        >>> answer("Why?")
        '42'
        >>> graph = llamatelemetry.trace_graph()
        >>> [(edge.source, edge.target, edge.stats.count) for edge in graph.edges]
        [('service:shop', 'pipeline:answer', 1)]
        >>> print(graph.to_mermaid())
        flowchart LR
        ...
    """
    setup = _setup()
    for processor in () if setup is None else setup.processors:
        # The class is not imported for a check, because the SDK may not be installed.
        if hasattr(processor, "graph"):
            return _with_links(cast("TraceGraphProcessor", processor).graph(trace_id))
    raise RuntimeError(GRAPHS_DISABLED)


def summary() -> CallsSummary:
    """Return the calls of this process so far, at most the newest 2,000.

    The result prints as a table, and is a table in a notebook. Engines send their own spans
    elsewhere, so it has the figures of the clients.

    Raises:
        RuntimeError: llamatelemetry is not set up in this process.

    Examples:
        >>> import llamatelemetry
        >>> from openai import OpenAI
        >>> config = llamatelemetry.init(exporter="none")
        >>> client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
        >>> question = [{"role": "user", "content": "Say hi."}]
        >>> for _ in range(3):
        ...     answer = client.chat.completions.create(model="m", messages=question, max_tokens=4)
        >>> table = llamatelemetry.summary()
        >>> print(table)
        Operation  Model                  Calls  Errors  Input tokens  Output tokens  ...
        chat       SmolLM2-135M-Instruct      3       0            99             12  ...
        >>> table.calls, table.errors
        (3, 0)
    """
    setup = _setup()
    for processor in () if setup is None else setup.processors:
        # The class is not imported for a check, because the SDK may not be installed.
        if hasattr(processor, "summary"):
            return cast("CallHistory", processor).summary()
    raise RuntimeError(
        "No calls are recorded in this process: call llamatelemetry.init() first, or start the "
        "program with `opentelemetry-instrument`"
    )


def _with_links(graph: TraceGraph) -> TraceGraph:
    """Add the connections between the GPUs of a graph, as far as the driver knows them."""
    gpus = [node.name for node in graph.nodes if node.kind == "gpu"]
    if len(gpus) > 1:
        from llamatelemetry.distributed import TopologyMapper

        topology = TopologyMapper().detect()
        known = [gpu for gpu in gpus if any(gpu == each.uuid for each in topology.gpus)]
        for one, other in itertools.combinations(known, 2):
            links = topology.links(one, other)
            if links.label is not None:
                graph.link(one, other, "NVLink" if links.nvlinks else "PCIe")
    return graph


def _set_up(config: LlamaTelemetryConfig) -> None:
    with required_by("llamatelemetry.init()", "llamatelemetry"):
        from opentelemetry.instrumentation.version import __version__

        from llamatelemetry.distro import (
            LlamaTelemetryConfigurator,
            LlamaTelemetryDistro,
            load_instrumentors,
        )
    distro, configurator = LlamaTelemetryDistro(), LlamaTelemetryConfigurator()
    try:
        with required_by("The configured export", "llamatelemetry"):
            distro.configure()  # pyright: ignore[reportUnknownMemberType] - it has no types
            configurator.configure(config, auto_instrumentation_version=__version__)
            load_instrumentors(distro)
    except MissingPackageError as error:
        _logger.warning("OpenTelemetry is not set up, nothing is recorded. %s", error)
    except Exception as error:
        internal_errors.log_once("setting up OpenTelemetry", error, may_quote=False)


def _attach(setup: Setup, wanted: LlamaTelemetryConfig, names: set[str]) -> LlamaTelemetryConfig:
    from llamatelemetry.distro import INSTRUMENTOR_OPTIONS, instrumentors, set_log_level

    setup.add(wanted.span_processors)
    names.discard("span_processors")
    changed = {name for name in names if getattr(wanted, name) != getattr(setup.config, name)}
    changeable = {*INSTRUMENTOR_OPTIONS, "log_level"} | setup.redact(wanted, changed)
    too_late = sorted(changed - changeable)
    if too_late:
        _logger.warning(
            "Ignored %s: OpenTelemetry is already set up. Call llamatelemetry.shutdown() first, or "
            "set them where it is configured",
            ", ".join(too_late),
        )
    changes = {name: getattr(wanted, name) for name in changed & changeable}
    if changes:
        setup.config = setup.config.replace(**changes)
        set_log_level(setup.config)
        instrumentors.reload_own(setup.config)
    return setup.config


def _requested_names(config: LlamaTelemetryConfig | None, explicit: dict[str, Any]) -> set[str]:
    """Return the names of the options that this call sets, without those of the environment."""
    names = {name for name, value in explicit.items() if value is not None}
    if config is not None:
        given = {name: config.option_value(name) for name in OPTIONS}
        names |= {name for name, g in given.items() if g is not None and g.origin != "default"}
    return names


def _configurator() -> LlamaTelemetryConfigurator | None:
    # Not imported for a check, because the SDK may not be installed.
    if "llamatelemetry.distro" not in sys.modules:
        return None
    from llamatelemetry.distro import LlamaTelemetryConfigurator

    return LlamaTelemetryConfigurator()


def _setup() -> Setup | None:
    configurator = _configurator()
    return None if configurator is None else configurator.setup


def _running_setup() -> Setup | None:
    setup = _setup()
    if setup is not None and not setup.is_alive:
        # The application shut a provider down. The others are shut down, too, so that all signals
        # start again with the same resource. The patches stay.
        setup.stop(Deadline(5.0), at_once=False)
        _forget_setup()
        return None
    return setup


def _forget_setup() -> None:
    configurator = _configurator()
    if configurator is not None:
        configurator.forget()
