"""init(), flush() and shutdown(): the zero-code set-up in one line, and its undoing."""

from __future__ import annotations

import importlib
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import _logs, metrics, trace

from llamatelemetry import genai
from llamatelemetry._optional import MissingPackageError, required_by
from llamatelemetry.config import (
    OPTIONS,
    LlamaTelemetryConfig,
    effective_config,
    sdk_disabled,
    use_config,
)
from llamatelemetry.genai import internal_errors
from llamatelemetry.otel.deadline import Deadline, run_side_by_side
from llamatelemetry.otel.redaction.options import checked

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.distro import Setup
    from llamatelemetry.otel.trace_graph import TraceGraph
    from llamatelemetry.otel.trace_graph_processor import TraceGraphProcessor

_logger = logging.getLogger("llamatelemetry.lifecycle")
_lock = threading.RLock()


def init(  # noqa: PLR0917 - the contract lets them be given by position
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
    """Sets this process up exactly as `opentelemetry-instrument` does.

    Explicit arguments win over `config`, that over `LLAMATELEMETRY_*`, those over `OTEL_*`.
    Where something is set up already, by an earlier call, without code, or by the application,
    `init` attaches to it: span processors go in front of those present, what can still change
    changes, and one warning names the options that come too late.

    Args:
        service_name: name of the service on the resource.
        service_version: its version.
        otlp_endpoint: a base URL, or the full URL of one signal.
        enable_metrics: whether metrics are recorded.
        gpu_enrichment: True, False, or "genai" for GenAI spans only.
        enable_trace_graphs: whether the graph of each trace is kept.
        span_processors: they run before any exporter.
        config: further options together.
        **options: the other fields of `LlamaTelemetryConfig`.

    Returns:
        The options in force.

    Raises:
        TypeError: an unknown option; the message names the nearest.
        ValueError: a bad value.
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
    wanted = checked(effective_config(config, **explicit))
    if sdk_disabled():
        return wanted
    with _lock:
        setup = _running_setup()
        if setup is not None:
            wanted = _attach(setup, wanted, _names_given(config, explicit))
        else:
            _set_up(wanted)
        use_config(wanted)
        return wanted


def flush(timeout_s: float = 5.0) -> bool:
    """Sends everything recorded so far.

    Returns:
        False when something has not left within the time, or was refused since the last call.
    """
    deadline = Deadline(timeout_s)
    ended = genai.flush_pending(deadline.remaining_s)
    steps: dict[str, Callable[[], object]] = {}
    for signal, provider in _global_providers().items():
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None:
            steps[f"flush-{signal}"] = partial(force_flush, deadline.remaining_ms)
    flushed = run_side_by_side(steps, deadline)
    setup = _setup()
    refused = setup is not None and setup.watch.take_failure()
    return ended and flushed and not refused


def shutdown(timeout_s: float = 5.0) -> bool:
    """Flushes, undoes every patch and stops every thread; `init()` works again after it.

    A provider that the application has made stays as it was.

    Returns:
        False when something has not left, or has not stopped within the time.
    """
    deadline = Deadline(timeout_s)
    with _lock:
        if "llamatelemetry.distro" in sys.modules:
            from llamatelemetry.distro import instrumentors

            instrumentors.uninstrument_all()
        # A collector that does not answer must leave some time for the rest.
        flushed = flush(timeout_s * 0.8)
        reaped = genai.stop_finalizer(deadline.remaining_s)
        setup = _setup()
        stopped = setup is None or setup.stop(deadline, at_once=not flushed)
        _forget_setup()
        use_config(None)
        return flushed and reaped and stopped


def trace_graph(trace_id: int | str | None = None) -> TraceGraph:
    """Gives what really ran as a graph: services, pipelines, stages, models, servers, slots, GPUs.

    Args:
        trace_id: of one of the last 256 traces, as a number or in hex; all traces when `None`.

    Returns:
        A copy: nodes and edges with counts, latency, tokens and errors; between GPUs how they
        are connected.

    Raises:
        RuntimeError: no graphs are kept.
        KeyError: the trace is not among the last ones.
    """
    setup = _setup()
    for processor in () if setup is None else setup.processors:
        if hasattr(processor, "graph"):  # not imported for the question: the SDK may not be there
            return _with_links(cast("TraceGraphProcessor", processor).graph(trace_id))
    raise RuntimeError(
        "no trace graphs are kept: call llamatelemetry.init(enable_trace_graphs=True), or set "
        "LLAMATELEMETRY_TRACE_GRAPHS=true"
    )


def _with_links(graph: TraceGraph) -> TraceGraph:
    """The graph with what lies between the GPUs in it, where the driver knows them."""
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
        # Private, but it is the zero-code path: the same checks in the same order.
        loading: Any = importlib.import_module(
            "opentelemetry.instrumentation.auto_instrumentation._load"
        )
        from opentelemetry.instrumentation.version import __version__

        from llamatelemetry.distro import LlamaTelemetryConfigurator, LlamaTelemetryDistro
    distro, configurator = LlamaTelemetryDistro(), LlamaTelemetryConfigurator()
    try:
        with required_by("The configured export", "llamatelemetry"):
            distro.configure()  # pyright: ignore[reportUnknownMemberType] - it has no types
            configurator.configure(  # pyright: ignore[reportUnknownMemberType] - likewise
                config=config, auto_instrumentation_version=__version__
            )
            loading._load_instrumentors(distro)
    except MissingPackageError as error:
        _logger.warning("OpenTelemetry is not set up. %s", error)
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
            "Already set up: %s can no longer be changed. Call llamatelemetry.shutdown() before "
            "init(), or give them to whatever set it up",
            ", ".join(too_late),
        )
    changes = {name: getattr(wanted, name) for name in changed & changeable}
    if changes:
        setup.config = setup.config.replace(**changes)
        set_log_level(setup.config)
        instrumentors.reload_ours(setup.config)
    return setup.config


def _names_given(config: LlamaTelemetryConfig | None, explicit: dict[str, Any]) -> set[str]:
    """The options that this call asks for, whatever the environment says."""
    names = {name for name, value in explicit.items() if value is not None}
    if config is not None:
        given = {name: config.given(name) for name in OPTIONS}
        names |= {name for name, g in given.items() if g is not None and g.origin != "default"}
    return names


def _setup() -> Setup | None:
    # Not imported for the question: the SDK may not be there.
    if "llamatelemetry.distro" not in sys.modules:
        return None
    from llamatelemetry.distro import LlamaTelemetryConfigurator

    return LlamaTelemetryConfigurator().setup


def _running_setup() -> Setup | None:
    setup = _setup()
    if setup is not None and not setup.is_alive:
        # The application has shut a provider down by itself. The others go as well, so that
        # all signals start anew with the same resource; the patches stay.
        setup.stop(Deadline(5.0), at_once=False)
        _forget_setup()
        return None
    return setup


def _forget_setup() -> None:
    if "llamatelemetry.distro" in sys.modules:
        from llamatelemetry.distro import LlamaTelemetryConfigurator

        LlamaTelemetryConfigurator().forget()


def _global_providers() -> dict[str, object]:
    return {
        "traces": trace.get_tracer_provider(),
        "metrics": metrics.get_meter_provider(),
        "logs": _logs.get_logger_provider(),
    }
