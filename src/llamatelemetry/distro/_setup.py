"""The SDK of this process: made from options or from a file, attached to later, taken down."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from llamatelemetry import __version__, genai
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.otel.deadline import Deadline, run_side_by_side
from llamatelemetry.otel.export_watch import ExportWatch
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.span_processors import put_in_front, take_out

from ._export_plan import given_by_us, plan_exports
from ._processors import arrange
from ._sdk import environment, exporter_options, providers_made, remove_logging_handlers

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_logger = logging.getLogger("llamatelemetry.distro")

_RESOURCE = {
    "service_name": "service.name",
    "service_version": "service.version",
    "environment": "deployment.environment.name",
}
_EXPORT = (
    "otlp_endpoint",
    "otlp_protocol",
    "otlp_headers",
    "exporter",
    "export_path",
    "export_interval_ms",
    "enable_metrics",
    "sampling",
    "sample_rate",
)


class Setup:
    """The SDK providers that are ours, and what we added to those that are not."""

    def __init__(self, config: LlamaTelemetryConfig, made: Mapping[str, Any]) -> None:
        self.config = config
        self.watch = ExportWatch()
        self._made = dict(made)
        self._processors: list[SpanProcessor] = []
        for provider in made.values():
            self.watch.watch(provider)

    @property
    def is_alive(self) -> bool:
        """False when the application has shut one of our providers down by itself."""
        return all(SIGNALS[name].stable.sdk is made for name, made in self._made.items())

    def add(self, processors: Sequence[SpanProcessor], *, present: bool = False) -> None:
        """Puts those that are not there yet in front of all others.

        Args:
            processors: in the order in which they are to be called.
            present: they are there; only remember them.
        """
        new = [each for each in processors if not any(each is p for p in self._processors)]
        self._processors += new
        if new and not present:
            put_in_front(self._tracer_provider, new)

    @property
    def processors(self) -> tuple[SpanProcessor, ...]:
        """Those that were added, ours and the application's."""
        return tuple(self._processors)

    def stop(self, deadline: Deadline, *, at_once: bool) -> bool:
        """Takes our providers down, each with its threads. False when that was not done in time.

        Args:
            deadline: until when.
            at_once: whether exporters give up what they are retrying.
        """
        # First of all, so that nothing is recorded on what is going down.
        for name in self._made:
            SIGNALS[name].stable.detach()
        if at_once:
            self.watch.shutdown_exporters()
        steps = {f"shutdown-{name}": made.shutdown for name, made in self._made.items()}
        if "metrics" in self._made:
            shutdown = self._made["metrics"].shutdown
            steps["shutdown-metrics"] = partial(shutdown, deadline.remaining_ms)
        if "logs" in self._made:
            remove_logging_handlers(self._made["logs"])
        if "traces" not in self._made:
            take_out(self._tracer_provider, self._processors)
            steps |= {f"shutdown-{n}": each.shutdown for n, each in enumerate(self._processors)}
        return run_side_by_side(steps, deadline)

    @property
    def _tracer_provider(self) -> Any:
        return self._made.get("traces") or SIGNALS["traces"].get_global()


def from_options(
    configure: Callable[..., None], config: LlamaTelemetryConfig, options: Mapping[str, Any]
) -> Setup:
    """Makes the SDK from our options and OpenTelemetry's variables.

    Args:
        configure: the SDK's own configuration.
        config: an effective one.
        options: further arguments of `configure`, which win.
    """
    foreign = _foreign_signals()
    plan = plan_exports(config, os.environ)
    for warning in plan.warnings:
        _logger.warning("%s", warning)
    _warn_of_unused(
        config,
        (*_RESOURCE, *_EXPORT) if foreign else (),
        f"the application has made its own provider for {' and '.join(sorted(foreign))}",
    )
    sampler, variables = _sampling(config)
    processors = arrange(config)
    arguments: dict[str, Any] = {
        **exporter_options(plan, foreign),
        **sampler,
        # Not to a provider that is thrown away, which would shut them down.
        "span_processors": () if "traces" in foreign else processors,
        **options,
        "resource_attributes": {**_resource(config), **options.get("resource_attributes", {})},
    }
    variables |= _variables(config)
    with environment(variables), providers_made(declarative=False) as made:
        configure(**arguments)
    return _finished(config, made, processors, present="traces" in made)


def from_file(configure: Callable[[], None], config: LlamaTelemetryConfig) -> Setup:
    """Makes the SDK from a declarative file, in which our options have no place.

    Args:
        configure: applies the file.
        config: an effective one. What we can still add is added: the resource's attributes,
            and span processors in front of those of the file.
    """
    _warn_of_unused(config, _EXPORT, "OTEL_CONFIG_FILE is set")
    with providers_made(declarative=True) as made:
        configure()
    resource = Resource(
        {
            key: value
            for key, value in _resource(config).items()
            if key.startswith("telemetry.") or given_by_us(config, _option_of(key))
        }
    )
    for provider in made.values():
        provider._update_resource(resource)
    return _finished(config, made, arrange(config), present=False)


def _finished(
    config: LlamaTelemetryConfig,
    made: dict[str, Any],
    processors: Sequence[SpanProcessor],
    *,
    present: bool,
) -> Setup:
    setup = Setup(config, made)
    setup.add(processors, present=present)
    # The last registered runs first: calls end while the SDK's own handlers have not run.
    atexit.unregister(_end_pending_calls)
    atexit.register(_end_pending_calls)
    return setup


def _end_pending_calls() -> None:
    genai.flush_pending(1.0)


def _foreign_signals() -> frozenset[str]:
    return frozenset(name for name, signal in SIGNALS.items() if signal.foreign is not None)


def _warn_of_unused(config: LlamaTelemetryConfig, names: Sequence[str], reason: str) -> None:
    unused = [name for name in names if given_by_us(config, name)]
    if unused:
        _logger.warning("Not used, because %s: %s", reason, ", ".join(unused))


def _resource(config: LlamaTelemetryConfig) -> dict[str, str]:
    given = {key: getattr(config, name) for name, key in _RESOURCE.items()}
    return {
        "telemetry.distro.name": "llamatelemetry",
        "telemetry.distro.version": __version__,
        **{key: value for key, value in given.items() if value is not None},
    }


def _option_of(key: str) -> str:
    return next(name for name, attribute in _RESOURCE.items() if attribute == key)


def _variables(config: LlamaTelemetryConfig) -> dict[str, str]:
    # The plan names the exporters; the SDK would add those of the variables to them.
    variables = {f"OTEL_{name.upper()}_EXPORTER": "none" for name in SIGNALS}
    if given_by_us(config, "export_interval_ms"):
        variables["OTEL_METRIC_EXPORT_INTERVAL"] = str(config.export_interval_ms)
    return variables


def _sampling(config: LlamaTelemetryConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """The sampler as an argument of the SDK's configuration, or as its variables."""
    if not given_by_us(config, "sampling"):
        return {}, {}
    if config.sampling == "ratio":
        return {"sampler": ParentBased(TraceIdRatioBased(config.sample_rate))}, {}
    if config.sampling in ("only_errors", "only_slow"):
        _logger.warning("sampling=%s is not there yet: every trace is kept", config.sampling)
        return {}, {}
    variables = {"OTEL_TRACES_SAMPLER": config.sampling}
    if given_by_us(config, "sample_rate"):
        variables["OTEL_TRACES_SAMPLER_ARG"] = str(config.sample_rate)
    return {}, variables
