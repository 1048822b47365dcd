"""The only module that names private parts of OpenTelemetry, each with a fallback.

OpenTelemetry does not promise to keep these names. `PRIVATE_NAMES` lists them with the consequence
if one is missing: spans, metrics and logs are still recorded and exported, and
`warn_of_missing_names` logs one warning.

Importing this module loads neither the SDK nor a private module. `tests/test_layers.py` finds
private names in any other file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry.attributes import BoundedAttributes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

TESTED_SDK: Final = "1.45"
PROVIDER_SETTERS: Final = {
    # No public way: the SDK's configuration passes its providers to these functions only.
    "opentelemetry.sdk._configuration:set_tracer_provider": "traces",
    "opentelemetry.sdk._configuration:set_meter_provider": "metrics",
    "opentelemetry.sdk._configuration:set_logger_provider": "logs",
}
"""Functions by which the SDK's configuration sets the global providers, and their signals."""

DECLARATIVE_PROVIDER_SETTERS: Final = {
    "opentelemetry.trace:set_tracer_provider": "traces",
    "opentelemetry.metrics:set_meter_provider": "metrics",
    "opentelemetry.configuration._logger_provider:set_logger_provider": "logs",
}
"""Functions by which a declarative file sets the global providers, and their signals."""

_logger = logging.getLogger("llamatelemetry.otel")
_all_spans = threading.RLock()


def sdk_configurator() -> Callable[..., None] | None:
    """Return the SDK's own configuration as a function, or `None` if it is missing.

    No public way: it alone applies id generators, OpAMP and the configurators of tracers, meters
    and loggers. The SDK documents it as a base class for distros.
    """
    try:
        base = _resolve("opentelemetry.sdk._configuration:_OTelSDKConfigurator")
    except (ImportError, AttributeError):
        return None
    # The SDK keeps one instance per class. One of its own class would be that of all subclasses.
    return type("SdkConfigurator", (base,), {})().configure


def _resolve(name: str) -> Any:
    """Return the object that is named as `module:name`."""
    module, _, path = name.partition(":")
    return operator.attrgetter(path)(importlib.import_module(module))


class ProcessorChain:
    """The processors of an SDK provider, in the order in which they run.

    No public way: `add_span_processor` and `add_log_record_processor` only append, after the
    exporters, where a processor that changes spans or records runs too late.
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


def http_session_of(exporter: object) -> Any:
    """Return the `requests.Session` of an OTLP exporter over HTTP, or `None`.

    No public way: a session can be given to an exporter, but not read from it. Without these
    names, only the sessions that the distro creates follow forks.
    """
    transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)
    session = getattr(transport, "_session", None)
    return session if hasattr(session, "adapters") else None


class _DropObserver:
    """Passes everything on to the SDK's own metrics of a batch processor."""

    def __init__(self, metrics: Any, on_drop: Callable[[int], None]) -> None:
        self._metrics = metrics
        self._on_drop = on_drop

    def drop_items(self, count: int, error_type: str = "queue_full") -> None:
        if error_type == "queue_full":
            self._on_drop(count)
        self._metrics.drop_items(count, error_type)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metrics, name)


def observe_dropped_items(provider: object, on_drop: Callable[[int], None]) -> None:
    """Call `on_drop` with the number of items that a full queue drops in a provider's processors.

    No public way: without its own metrics, the SDK only logs that items are dropped.
    """
    for holder in _exporter_holders(provider):
        part: Any = getattr(holder, "_batch_processor", None)
        metrics = getattr(part, "_metrics", None)
        if hasattr(metrics, "drop_items"):
            part._metrics = _DropObserver(metrics, on_drop)


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


def span_lock(span: object) -> AbstractContextManager[object]:
    """Return the lock of a span, or if it is missing one lock for all spans.

    No public way: processors that the SDK runs concurrently have nothing else in common.
    """
    return getattr(span, "_lock", None) or _all_spans


def span_part(span: object, name: str) -> Any:
    """Return the object that a span stores for a public property, which returns a copy or view.

    Raises:
        AttributeError: The span does not store this part.
    """
    return getattr(span, _field(name))


def replace_span_parts(span: object, **parts: object) -> None:
    """Replace the objects that a span stores for its public properties.

    No public way: an ended span is read-only.

    Raises:
        AttributeError: The span does not store one of the parts. No part is replaced.
    """
    fields = {_field(name): part for name, part in parts.items()}
    for field in fields:
        getattr(span, field)  # raises before any part is replaced
    for field, part in fields.items():
        setattr(span, field, part)


@functools.cache
def _field(name: str) -> str:
    """Return where the SDK's spans store a public property, found by its value in a sample."""
    span = _sample_span()
    wanted = getattr(span, name)
    for field, value in cast("dict[str, Any]", vars(span)).items():
        items = tuple(cast("Any", value)) if isinstance(value, Sequence) else value
        if wanted in (value, items):
            return field
    return f"_{name}"


def add_to_ended_span(span: object, attributes: Mapping[str, AttributeValue]) -> None:
    """Add attributes with clean values, arrays as tuples, to a span that is ending or ended.

    No public way: `set_attribute` rejects them as soon as the span has an end time. Beyond its
    limit on their number, the SDK would drop the oldest attribute, not the new one.
    """
    present = span_part(span, "attributes")
    # Stored without the SDK's cleaning of arrays, which costs more than everything else here.
    stored: dict[str, AttributeValue] | None = getattr(present, "_dict", None)
    values = dict(present) if stored is None else stored
    with getattr(present, "_lock", None) or contextlib.nullcontext():
        for name, value in attributes.items():
            if present.maxlen is None or len(values) < present.maxlen:
                values[name] = value
    if stored is None:
        copied = BoundedAttributes(attributes=values)
        copied.dropped = present.dropped
        replace_span_parts(span, attributes=copied)


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


def warn_of_missing_names(providers: Mapping[str, Any]) -> None:
    """Log one warning for each name that the installed OpenTelemetry lacks, once per process."""
    for name, lost in PRIVATE_NAMES.items():
        try:
            missing = is_missing(name, providers)
        except Exception:
            _logger.debug("Cannot check %s", name, exc_info=True)
            missing = True
        if missing:
            _warn_once(name, lost)


def is_missing(name: str, providers: Mapping[str, Any]) -> bool:
    """Return whether the installed version lacks a name of `PRIVATE_NAMES` that something uses.

    A name is `module:name`, or `Class.name` for a span and for the SDK's providers by signal, with
    their processors and readers.
    """
    module, is_in_module, _ = name.partition(":")
    if is_in_module:
        if module.rpartition(".")[0] not in sys.modules:
            return False
        try:
            _resolve(name)
        except (ImportError, AttributeError):
            return True
        return False
    kind, *parents, identifier = name.split(".")
    holders = (each for provider in providers.values() for each in _exporter_holders(provider))
    found: Any = _sample_span() if kind == "Span" else None
    for each in (*providers.values(), *holders):
        if kind in (base.__name__ for base in type(each).__mro__):
            found = each
    for parent in parents:
        # If this one is missing, it has a warning of its own.
        found = getattr(found, parent, None)
    return found is not None and not hasattr(found, identifier)


@functools.cache
def _warn_once(name: str, lost: str) -> None:
    _logger.warning(
        "This version of OpenTelemetry does not have %s: %s. Everything else works. Update "
        "llamatelemetry, or install opentelemetry-sdk %s",
        name,
        lost,
        TESTED_SDK,
    )


@functools.cache
def _sample_span() -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    provider = TracerProvider(ALWAYS_ON, Resource({"sample": 1}), shutdown_on_exit=False)
    span = provider.get_tracer("llamatelemetry").start_span("sample", attributes={"sample": 1})
    span.add_event("sample")
    span.add_link(span.get_span_context(), {"sample": 1})
    return span


_PROCESSOR_ORDER = (
    "span processors added after the set-up run after the exporters, which therefore receive spans "
    "that are not redacted or enriched, tail sampling is disabled, and flush() cannot detect "
    "rejected spans"
)
_LOG_PROCESSOR_ORDER = (
    "log record processors added after the set-up run after the exporters, which therefore receive "
    "log records that are not redacted, and flush() cannot detect rejected log records"
)
_FORKS = "forked processes continue from the metric values of their parent"

PRIVATE_NAMES: Final[Mapping[str, str]] = {
    "opentelemetry.sdk._configuration:_OTelSDKConfigurator": "OTEL_* variables for id generators, "
    "OpAMP and logger, meter and tracer configurators are ignored",
    **{
        name: f"{signal} are not recorded any more after shutdown() and another init()"
        for name, signal in (PROVIDER_SETTERS | DECLARATIVE_PROVIDER_SETTERS).items()
        if "._" in name
    },
    "TracerProvider._active_span_processor": _PROCESSOR_ORDER,
    "TracerProvider._active_span_processor._span_processors": _PROCESSOR_ORDER,
    "TracerProvider._active_span_processor._lock": "processors that two threads add at the same "
    "time can be lost",
    "LoggerProvider._multi_log_record_processor": _LOG_PROCESSOR_ORDER,
    "LoggerProvider._multi_log_record_processor._log_record_processors": _LOG_PROCESSOR_ORDER,
    "BatchSpanProcessor._batch_processor": "dropped spans are not counted",
    "BatchSpanProcessor._batch_processor._metrics": "dropped spans are not counted",
    "BatchLogRecordProcessor._batch_processor": "flush() cannot detect rejected log records",
    "BatchLogRecordProcessor._batch_processor._metrics": "dropped log records are not counted",
    "PeriodicExportingMetricReader._exporter": "flush() cannot detect rejected metrics and log "
    "records",
    "MeterProvider._metric_readers": "flush() cannot detect rejected metrics",
    "MeterProvider._update_resource": "the resource keeps the process id of the parent after a "
    "fork, lacks attributes set next to OTEL_CONFIG_FILE, and is not redacted for metrics",
    "MeterProvider._sdk_config": "the resource of metrics is not redacted",
    "MeterProvider._measurement_consumer": _FORKS,
    "MeterProvider._measurement_consumer._reader_storages": _FORKS,
    "PeriodicExportingMetricReader._export_lock": "a process that is forked during an export can "
    "fail to export metrics",
    "opentelemetry.sdk.trace:SpanProcessor._on_ending": "spans have no energy attributes, and "
    "processors that the application added first receive spans that are not redacted",
    "Span._lock": "spans are redacted one at a time",
    "Span._limits": "a limit on the length of attributes can cut recorded messages in the middle "
    "of their JSON",
    "opentelemetry.context:_RUNTIME_CONTEXT": "an asynchronous generator that is closed late logs "
    "an error of OpenTelemetry",
}
"""Every private name that a feature needs, and the consequence for users if it is missing.

A name without a consequence, because the fallback is as good, is not listed.
"""
