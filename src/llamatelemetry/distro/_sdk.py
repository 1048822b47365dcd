"""Run the SDK's own configuration, and attach its providers to the delegating ones.

The SDK's configuration ends with setting OpenTelemetry's globals, which works only once. These
calls are intercepted while it runs. Samplers, id generators, resource detectors, OpAMP hooks and
declarative files are the SDK's own.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from opentelemetry.sdk.environment_variables import OTEL_EXPERIMENTAL_RESOURCE_DETECTORS
from opentelemetry.sdk.resources import Resource

from llamatelemetry import __version__
from llamatelemetry._nvml_library import has_nvml_library
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.config.otel_variables import corrected_variables, environment
from llamatelemetry.distro._export_plan import (
    HTTP_EXPORTER,
    ExportPlan,
    is_explicit,
    plan_exports,
)
from llamatelemetry.distro._exporters import (
    compression_variables,
    installed_exporters,
    load_exporter,
)
from llamatelemetry.distro._gpu import DETECTOR, GpuTelemetry
from llamatelemetry.distro._processors import arrange, log_redaction_processors
from llamatelemetry.distro._sampling import (
    replace_sampler,
    sampler_options,
    sampler_variables,
)
from llamatelemetry.distro._setup import Setup, process_attributes, report_losses_at_exit
from llamatelemetry.otel._sdk_private import (
    DECLARATIVE_PROVIDER_SETTERS,
    PROVIDER_SETTERS,
    sdk_configurator,
    update_resource,
)
from llamatelemetry.otel.export.http_sessions import new_session
from llamatelemetry.otel.process.forking import fork_handlers_without_waiting
from llamatelemetry.otel.providers import SIGNALS

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
)
_EXPORTER_NAMES = {
    "traces": "trace_exporter_names",
    "metrics": "metric_exporter_names",
    "logs": "log_exporter_names",
}
"""Signal to the argument of the SDK's configuration that names its exporters."""


def setup_from_options(config: LlamaTelemetryConfig, options: Mapping[str, Any]) -> Setup:
    """Set up the SDK by llamatelemetry's options and OpenTelemetry's variables.

    `options` are further arguments of the SDK's configuration, which win.
    """
    variables = sampler_variables(config)
    # The SDK raises for an invalid value of some variables.
    with environment({**variables, **corrected_variables({**os.environ, **variables})}):
        return _setup_from_options(config, options)


def _setup_from_options(config: LlamaTelemetryConfig, options: Mapping[str, Any]) -> Setup:
    application = {name for name, each in SIGNALS.items() if each.application_provider is not None}
    plan = installed_exporters(plan_exports(config, os.environ))
    for warning in plan.warnings:
        _logger.warning("%s", warning)
    if application:
        _warn_of_ignored_options(
            config,
            (*_RESOURCE, *_EXPORT),
            f"the application set its own provider for {' and '.join(sorted(application))}. Set "
            "them where it is created",
        )
    gpus = GpuTelemetry(config)
    processors = arrange(config, gpus.processors)
    # Processors passed here run before the exporters, without any private name of the SDK.
    # A provider that is discarded would shut them down.
    log_processors = () if "logs" in application else log_redaction_processors(processors)
    arguments: dict[str, Any] = {
        **_exporter_options(plan, application),
        **sampler_options(config),
        "span_processors": () if "traces" in application else processors,
        **options,
        "log_record_processors": [*log_processors, *options.get("log_record_processors", ())],
        "resource_attributes": {**_resource(config), **options.get("resource_attributes", {})},
    }
    variables = _variables(config) | compression_variables(plan, os.environ)
    report_losses_at_exit()
    with environment(variables), captured_providers() as capture:
        configure = sdk_configurator() or partial(_configure, capture.set_provider)
        configure(**arguments)
    created = capture.providers
    setup = Setup(config, created, gpus, capture.logging_handlers)
    setup.start(processors, present="traces" in created, logs_done="logs" in created)
    return setup


def setup_from_file(configure: Callable[[], None], config: LlamaTelemetryConfig) -> Setup:
    """Set up the SDK by a declarative file, which does not have llamatelemetry's options.

    `configure` applies the file. Resource attributes, span processors and the sampler of `config`
    are added to it.
    """
    _warn_of_ignored_options(config, _EXPORT, "OTEL_CONFIG_FILE is set. Set them in that file")
    report_losses_at_exit()
    with captured_providers(
        lambda each: replace_sampler(config, each), declarative=True
    ) as capture:
        configure()
    explicit = {key for name, key in _RESOURCE.items() if is_explicit(config, name)}
    attributes = _resource(config)
    for key in {*_RESOURCE.values()} - explicit:
        attributes.pop(key, None)
    detected: Mapping[str, Any] = {}
    if OTEL_EXPERIMENTAL_RESOURCE_DETECTORS not in os.environ and has_nvml_library():
        from llamatelemetry.gpu.detector import GpuResourceDetector

        detected = GpuResourceDetector().detect().attributes
    for provider in capture.providers.values():
        update_resource(provider, {**detected, **attributes})
    gpus = GpuTelemetry(config)
    setup = Setup(config, capture.providers, gpus, capture.logging_handlers)
    setup.start(arrange(config, gpus.processors), present=False, logs_done=False)
    return setup


class ProviderCapture:
    """Attaches the providers that the SDK sets as global ones to the delegating ones.

    `providers` lacks the signals for which the application set a provider. `logging_handlers` are
    those that the SDK added to the root logger.
    """

    def __init__(self, prepare_traces: Callable[[Any], None]) -> None:
        self.providers: dict[str, Any] = {}
        self.logging_handlers: list[logging.Handler] = []
        self._prepare_traces = prepare_traces
        self._unset = [n for n, each in SIGNALS.items() if each.application_provider is None]
        self._unwanted: list[Any] = []

    def set_provider(self, signal: str, provider: Any) -> None:
        """Attach a provider. Discard it if the application set one."""
        if signal in self._unset and signal not in self.providers:
            self._attach(signal, provider)
        else:
            self._unwanted.append(provider)

    def adopt(self) -> None:
        """Attach the providers that the SDK set as the global ones, past the interception."""
        for name in self._unset:
            provider = SIGNALS[name].application_provider
            if provider is not None and name not in self.providers:
                self._attach(name, provider)

    def discard_all(self) -> None:
        """Detach all providers, because the configuration failed."""
        for signal, provider in self.providers.items():
            SIGNALS[signal].delegating.detach()
            self._unwanted.append(provider)

    def shutdown_unwanted(self) -> None:
        """Shut the discarded providers down."""
        for provider in self._unwanted:
            provider.shutdown()

    def _attach(self, signal: str, provider: Any) -> None:
        if signal == "traces":
            self._prepare_traces(provider)
        self.providers[signal] = provider
        SIGNALS[signal].attach(provider)


@contextmanager
def captured_providers(
    prepare_traces: Callable[[Any], None] = lambda _: None, *, declarative: bool = False
) -> Generator[ProviderCapture]:
    """Capture the providers that a configuration of the SDK creates within the `with` block.

    An application's provider stays the global one, and the SDK's is shut down. An exception
    shuts all of them down. `prepare_traces` is called with the tracer provider before it is
    attached. `declarative` is `True` if a declarative file is applied.
    """
    capture = ProviderCapture(prepare_traces)
    handlers = list(logging.getLogger().handlers)
    setters = PROVIDER_SETTERS | (DECLARATIVE_PROVIDER_SETTERS if declarative else {})
    try:
        with ExitStack() as stack:
            stack.enter_context(fork_handlers_without_waiting())
            for setter, signal in setters.items():
                stack.enter_context(_replaced(setter, partial(capture.set_provider, signal)))
            yield capture
        capture.adopt()
    except BaseException:
        capture.discard_all()
        raise
    finally:
        capture.shutdown_unwanted()
        capture.logging_handlers += [
            each
            for each in logging.getLogger().handlers
            if each not in handlers and type(each).__module__.startswith("opentelemetry.")
        ]


@contextmanager
def _replaced(function: str, value: object) -> Generator[None]:
    """Replace a function, named as `module:name`, within the `with` block."""
    module_name, _, name = function.partition(":")
    try:
        module = importlib.import_module(module_name)
        before = getattr(module, name)
    except (ImportError, AttributeError):
        # Missing in this version of OpenTelemetry: the provider is adopted afterwards.
        yield
        return
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _configure(
    set_provider: Callable[[str, Any], None],
    *,
    trace_exporter_names: Sequence[str],
    metric_exporter_names: Sequence[str],
    log_exporter_names: Sequence[str],
    exporter_args_map: Mapping[type, Mapping[str, Any]],
    span_processors: Sequence[Any],
    log_record_processors: Sequence[Any],
    resource_attributes: Mapping[str, Any],
    auto_instrumentation_version: str | None = None,
    sampler: Any = None,
    **_: Any,
) -> None:
    """Create the providers from public parts of the SDK, if its configurator is missing."""
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    def exporters(signal: str, names: Sequence[str]) -> list[Any]:
        classes = [load_exporter(signal, name) for name in names]
        return [kind(**exporter_args_map.get(kind, {})) for kind in classes if kind is not None]

    version = {"telemetry.auto.version": auto_instrumentation_version}
    resource = Resource.create(
        {**resource_attributes, **(version if auto_instrumentation_version else {})}
    )
    tracers = TracerProvider(sampler, resource)
    for processor in span_processors:
        tracers.add_span_processor(processor)
    for exporter in exporters("traces", trace_exporter_names):
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    readers = [
        each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each)
        for each in exporters("metrics", metric_exporter_names)
    ]
    loggers = LoggerProvider(resource)
    for processor in log_record_processors:
        loggers.add_log_record_processor(processor)
    for exporter in exporters("logs", log_exporter_names):
        loggers.add_log_record_processor(BatchLogRecordProcessor(exporter))
    set_provider("traces", tracers)
    set_provider("metrics", MeterProvider(readers, resource))
    set_provider("logs", loggers)


def _exporter_options(plan: ExportPlan, excluded: set[str]) -> dict[str, Any]:
    """Return the plan as arguments of the SDK's configuration, without the excluded signals."""
    options: dict[str, Any] = {name: [] for name in _EXPORTER_NAMES.values()}
    arguments: dict[type, Mapping[str, Any]] = {}
    for signal, exporters in plan.exporters.items():
        if signal in excluded:
            continue
        options[_EXPORTER_NAMES[signal]] = list(exporters)
        for name, given in exporters.items():
            # The SDK loads the class by the same name, and reports one that is missing or fails.
            own = _own_session(signal) if name == HTTP_EXPORTER else {}
            kind = load_exporter(signal, name) if given or own else None
            if kind is not None:
                arguments[kind] = {**given, **own}
    return {**options, "exporter_args_map": arguments}


def _own_session(signal: str) -> dict[str, Any]:
    """Return the argument for a session, unless a credential provider creates the session."""
    for part in ("", f"{signal.upper()}_"):
        if os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{part}CREDENTIAL_PROVIDER"):
            return {}
    try:
        return {"session": new_session()}
    except ImportError:
        # The SDK reports that the exporter cannot be loaded.
        return {}


def _warn_of_ignored_options(
    config: LlamaTelemetryConfig, names: Sequence[str], reason: str
) -> None:
    ignored = [name for name in names if is_explicit(config, name)]
    if ignored:
        _logger.warning("Ignored %s: %s", ", ".join(ignored), reason)


def _resource(config: LlamaTelemetryConfig) -> dict[str, str | int]:
    given = {key: getattr(config, name) for name, key in _RESOURCE.items()}
    return {
        "telemetry.distro.name": "llamatelemetry",
        "telemetry.distro.version": __version__,
        **process_attributes(),
        **{key: value for key, value in given.items() if value is not None},
    }


def _variables(config: LlamaTelemetryConfig) -> dict[str, str]:
    # The plan names the exporters. The SDK would add those of the variables to them.
    variables = {f"OTEL_{name.upper()}_EXPORTER": "none" for name in SIGNALS}
    if OTEL_EXPERIMENTAL_RESOURCE_DETECTORS not in os.environ and has_nvml_library():
        variables[OTEL_EXPERIMENTAL_RESOURCE_DETECTORS] = DETECTOR
    if is_explicit(config, "export_interval_ms"):
        variables["OTEL_METRIC_EXPORT_INTERVAL"] = str(config.export_interval_ms)
    return variables
