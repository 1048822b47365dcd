"""The only module that names private parts of OpenTelemetry, each with a fallback.

OpenTelemetry does not promise to keep these names. `PRIVATE_NAMES` lists them with the feature
that each one carries. If a name is missing, only that feature is lost: spans, metrics and logs
are still recorded and exported, and `warn_of_missing_names` logs one warning.

Importing this module loads neither the SDK nor a private module. `tests/test_layers.py` finds
private names in any other file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

TESTED_SDK: Final = "1.45"
_CONFIGURATION: Final = "opentelemetry.sdk._configuration"
_DECLARATIVE_LOGS: Final = "opentelemetry.configuration._logger_provider"

PROVIDER_SETTERS: Final = (
    # No public way: the SDK's configuration passes its providers to these functions only.
    (_CONFIGURATION, "set_tracer_provider", "traces"),
    (_CONFIGURATION, "set_meter_provider", "metrics"),
    (_CONFIGURATION, "set_logger_provider", "logs"),
)
DECLARATIVE_PROVIDER_SETTERS: Final = (
    ("opentelemetry.trace", "set_tracer_provider", "traces"),
    ("opentelemetry.metrics", "set_meter_provider", "metrics"),
    (_DECLARATIVE_LOGS, "set_logger_provider", "logs"),
)
"""Functions by which a set-up makes its providers the global ones: module, name, signal."""

_logger = logging.getLogger("llamatelemetry.otel")


def sdk_configurator() -> Callable[..., None] | None:
    """Return the SDK's own configuration as a function, or `None` if it is missing.

    No public way: it alone applies id generators, OpAMP and the configurators of tracers, meters
    and loggers. Its documentation asks distros to subclass it.
    """
    base = getattr(_module(_CONFIGURATION), "_OTelSDKConfigurator", None)
    # The SDK keeps one instance per class. One of its own class would be that of all subclasses.
    return None if base is None else type("SdkConfigurator", (base,), {})().configure


class ProcessorChain:
    """The processors of an SDK provider, in the order in which they run.

    No public way: `add_span_processor` and `add_log_record_processor` only append, after the
    exporters, where a processor that changes spans or records runs too late.

    Attributes:
        sdk_chain: The SDK's object that calls the processors.
    """

    def __init__(self, sdk_chain: Any, name: str) -> None:
        self.sdk_chain = sdk_chain
        self._name = name

    @property
    def processors(self) -> tuple[Any, ...]:
        """The processors."""
        return tuple(getattr(self.sdk_chain, self._name))

    def change(self, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
        """Replace the processors by what `change` returns for them."""
        # The SDK holds this lock while it appends a processor.
        with getattr(self.sdk_chain, "_lock", None) or contextlib.nullcontext():
            setattr(self.sdk_chain, self._name, change(self.processors))


def span_processor_chain(provider: object) -> ProcessorChain | None:
    """Return the span processors of an SDK provider, or `None` if it does not have any."""
    return _chain(getattr(provider, "_active_span_processor", None), "_span_processors")


def log_processor_chain(provider: object) -> ProcessorChain | None:
    """Return the log record processors of an SDK provider, or `None` if it does not have any."""
    return _chain(getattr(provider, "_multi_log_record_processor", None), "_log_record_processors")


def _chain(sdk_chain: object, name: str) -> ProcessorChain | None:
    return ProcessorChain(sdk_chain, name) if hasattr(sdk_chain, name) else None


def exporters_of(provider: object) -> Iterator[Any]:
    """Yield the exporters of an SDK provider.

    No public way for metrics and logs, nor from a provider to its processors and readers.
    """
    for holder in _exporter_holders(provider):
        # `span_exporter` is public. Metric readers and log record processors have `_exporter`,
        # batch log record processors in a part of their own.
        part = getattr(holder, "_batch_processor", holder)
        exporter = getattr(holder, "span_exporter", None) or getattr(part, "_exporter", None)
        if exporter is not None:
            yield exporter


def _exporter_holders(provider: object) -> Iterator[object]:
    yield from getattr(provider, "_metric_readers", ())
    for chain in (span_processor_chain(provider), log_processor_chain(provider)):
        for processor in chain.processors if chain is not None else ():
            yield from getattr(processor, "downstream", (processor,))


def update_resource(provider: object, attributes: Mapping[str, AttributeValue]) -> None:
    """Merge attributes into the resource of an SDK provider, if it has one.

    No public way: a provider gets its resource when it is created.
    """
    update: Any = getattr(provider, "_update_resource", None)
    if update is not None:
        from opentelemetry.sdk.resources import Resource

        update(Resource(attributes))


def meter_provider_resource(provider: object) -> Resource | None:
    """Return the resource of an SDK meter provider, or `None` if it is unknown.

    No public way: unlike the other providers, it does not have a `resource` property.
    """
    return getattr(getattr(provider, "_sdk_config", None), "resource", None)


def reset_metrics_after_fork(provider: object) -> None:
    """Start an SDK meter provider from zero, in a child process that was just forked.

    No public way: the SDK resets spans and logs after a fork, but metrics continue from the
    parent's values, under locks that another thread of the parent may have held. The SDK's
    parts are replaced as `add_metric_reader` creates them.
    """
    consumer: Any = getattr(provider, "_measurement_consumer", None)
    readers: Iterable[Any] | None = getattr(consumer, "_reader_storages", None)
    if consumer is None or readers is None:
        return
    consumer._lock = threading.Lock()
    for reader in tuple(readers):
        if hasattr(reader, "_export_lock"):
            reader._export_lock = threading.Lock()
        consumer.remove_metric_reader(reader)
        consumer.add_metric_reader(reader)


def has_on_ending() -> bool:
    """Return whether the SDK calls `_on_ending` of span processors, before any `on_end`.

    No public way: the specification has OnEnding, the SDK only under this experimental name.
    """
    from opentelemetry.sdk.trace import SpanProcessor

    return hasattr(SpanProcessor, "_on_ending")


def call_on_ending(processor: object, span: object) -> None:
    """Call `_on_ending` of a span processor, as the SDK does, if it has the method."""
    on_ending: Any = getattr(processor, "_on_ending", None)
    if on_ending is not None:
        on_ending(span)


def add_to_ended_span(span: object, attributes: Mapping[str, AttributeValue]) -> None:
    """Add attributes to an ended span, up to the limit on their number.

    No public way: `set_attribute` rejects them as soon as the span has an end time. Values are
    stored as they are, because the SDK's cleaning of arrays costs more than everything else
    here. Beyond its limit the SDK would drop the oldest attribute, not the new one.

    Args:
        span: A span of the SDK, while processors handle its end.
        attributes: Attributes with clean values; arrays are tuples.
    """
    present: Any = getattr(span, "_attributes", None)
    values: dict[str, AttributeValue] | None = getattr(present, "_dict", None)
    if values is None:
        return
    with getattr(present, "_lock", None) or contextlib.nullcontext():
        for name, value in attributes.items():
            if present.maxlen is None or len(values) < present.maxlen:
                values[name] = value


def attribute_length_limit(span: object) -> int | None:
    """Return the SDK's limit on the length of a span's text attributes, or `None`.

    No public way: a span does not show its limits.
    """
    found = getattr(getattr(span, "_limits", None), "max_span_attribute_length", None)
    return found if isinstance(found, int) else None


def detach_context(token: Token[Context]) -> None:
    """Restore the context from before `opentelemetry.context.attach`, if it is still active.

    No public way: `opentelemetry.context.detach` logs an error if another task attached it. That
    is normal for an asynchronous generator that is closed late.
    """
    runtime_context = getattr(context_api, "_RUNTIME_CONTEXT", None)
    if runtime_context is None:
        context_api.detach(token)
        return
    with contextlib.suppress(ValueError):
        runtime_context.detach(token)


def _module(name: str) -> Any:
    """Return a private module, or `None` if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@dataclass(frozen=True)
class PrivateName:
    """A private name of OpenTelemetry that a feature needs.

    Attributes:
        name: The name, with the class or module that has it.
        path: Where the name is, separated by `/`: first a module, "span", or a signal for its
            provider; then attributes. A class after a signal is that of a processor or reader.
        lost: Consequence if the name is missing, as a clause of the warning.
    """

    name: str
    path: str
    lost: str

    @property
    def identifier(self) -> str:
        """The name alone."""
        return self.path.rpartition("/")[2]

    def is_there(self, providers: Mapping[str, Any]) -> bool:
        """Return whether the installed version has the name, or nothing uses it.

        Args:
            providers: The SDK's providers by signal.
        """
        root, *names = self.path.split("/")
        found: Any
        if "." in root:
            if root.rpartition(".")[0] not in sys.modules:
                return True
            found = _module(root)
        else:
            found = _sample_span() if root == "span" else providers.get(root)
            if found is not None and names[0][0].isupper():
                kind = names.pop(0)
                holders = _exporter_holders(found)
                found = next((each for each in holders if type(each).__name__ == kind), None)
            if found is None:
                return True
        for name in names[:-1]:
            if not hasattr(found, name):
                # This one has a warning of its own.
                return True
            found = getattr(found, name)
        return hasattr(found, names[-1])


def warn_of_missing_names(providers: Mapping[str, Any]) -> None:
    """Log one warning for each name that the installed OpenTelemetry lacks, once per process.

    Args:
        providers: The SDK's providers by signal.
    """
    for each in PRIVATE_NAMES:
        try:
            is_there = each.is_there(providers)
        except Exception:
            _logger.debug("Cannot check %s", each.name, exc_info=True)
            is_there = False
        if not is_there:
            _warn_once(each)


@functools.cache
def _warn_once(missing: PrivateName) -> None:
    _logger.warning(
        "This version of OpenTelemetry does not have %s: %s. Everything else works. Update "
        "llamatelemetry, or install opentelemetry-sdk %s",
        missing.name,
        missing.lost,
        TESTED_SDK,
    )


@functools.cache
def _sample_span() -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    provider = TracerProvider(ALWAYS_ON, Resource.get_empty(), shutdown_on_exit=False)
    return provider.get_tracer("llamatelemetry").start_span("sample")


_SPANS_NOT_IN_FRONT = (
    "span processors added after the set-up run after the exporters, which therefore receive spans "
    "that are not redacted or enriched, tail sampling is disabled, and flush() cannot detect "
    "rejected spans"
)
_LOGS_NOT_IN_FRONT = (
    "log record processors added after the set-up run after the exporters, which therefore receive "
    "log records that are not redacted, and flush() cannot detect rejected log records"
)
_FORKS = "forked processes continue from the metric values of their parent"
_NOT_REPLACED = "{} are not recorded any more after shutdown() and another init()"

PRIVATE_NAMES: Final = (
    PrivateName(
        f"{_CONFIGURATION}._OTelSDKConfigurator",
        f"{_CONFIGURATION}/_OTelSDKConfigurator",
        "OTEL_* variables for id generators, OpAMP and logger, meter and tracer configurators are "
        "ignored",
    ),
    *(
        PrivateName(f"{module}.{name}", f"{module}/{name}", _NOT_REPLACED.format(signal))
        for module, name, signal in (*PROVIDER_SETTERS, DECLARATIVE_PROVIDER_SETTERS[-1])
    ),
    PrivateName(
        "TracerProvider._active_span_processor",
        "traces/_active_span_processor",
        _SPANS_NOT_IN_FRONT,
    ),
    PrivateName(
        "SynchronousMultiSpanProcessor._span_processors",
        "traces/_active_span_processor/_span_processors",
        _SPANS_NOT_IN_FRONT,
    ),
    PrivateName(
        "SynchronousMultiSpanProcessor._lock",
        "traces/_active_span_processor/_lock",
        "processors that two threads add at the same time can be lost",
    ),
    PrivateName(
        "LoggerProvider._multi_log_record_processor",
        "logs/_multi_log_record_processor",
        _LOGS_NOT_IN_FRONT,
    ),
    PrivateName(
        "SynchronousMultiLogRecordProcessor._log_record_processors",
        "logs/_multi_log_record_processor/_log_record_processors",
        _LOGS_NOT_IN_FRONT,
    ),
    PrivateName(
        "BatchLogRecordProcessor._batch_processor",
        "logs/BatchLogRecordProcessor/_batch_processor",
        "flush() cannot detect rejected log records",
    ),
    PrivateName(
        "PeriodicExportingMetricReader._exporter",
        "metrics/PeriodicExportingMetricReader/_exporter",
        "flush() cannot detect rejected metrics and log records",
    ),
    PrivateName(
        "MeterProvider._metric_readers",
        "metrics/_metric_readers",
        "flush() cannot detect rejected metrics",
    ),
    PrivateName(
        "MeterProvider._update_resource",
        "metrics/_update_resource",
        "the resource keeps the process id of the parent after a fork, lacks attributes set next to "
        "OTEL_CONFIG_FILE, and is not redacted for metrics",
    ),
    PrivateName(
        "MeterProvider._sdk_config",
        "metrics/_sdk_config",
        "the resource of metrics is not redacted",
    ),
    PrivateName(
        "MeterProvider._measurement_consumer",
        "metrics/_measurement_consumer",
        _FORKS,
    ),
    PrivateName(
        "SynchronousMeasurementConsumer._reader_storages",
        "metrics/_measurement_consumer/_reader_storages",
        _FORKS,
    ),
    PrivateName(
        "PeriodicExportingMetricReader._export_lock",
        "metrics/PeriodicExportingMetricReader/_export_lock",
        "a process that is forked during an export can fail to export metrics",
    ),
    PrivateName(
        "SpanProcessor._on_ending",
        "opentelemetry.sdk.trace/SpanProcessor/_on_ending",
        "spans have no energy attributes, and processors that the application added first receive "
        "spans that are not redacted",
    ),
    PrivateName("Span._attributes", "span/_attributes", "spans have no GPU attributes"),
    PrivateName(
        "BoundedAttributes._dict", "span/_attributes/_dict", "spans have no GPU attributes"
    ),
    PrivateName(
        "Span._limits",
        "span/_limits",
        "a limit on the length of attributes can cut recorded messages in the middle of their JSON",
    ),
    PrivateName(
        "opentelemetry.context._RUNTIME_CONTEXT",
        "opentelemetry.context/_RUNTIME_CONTEXT",
        "an asynchronous generator that is closed late logs an error of OpenTelemetry",
    ),
)
"""Every private name, in the order of the functions above."""
