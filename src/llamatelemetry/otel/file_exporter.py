"""Exporters that write OTLP JSON lines: one file for each signal and process.

`<folder>/{traces,metrics,logs}-<pid>.jsonl`; each line is one export request as the OTLP file
exporter specification has it: https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/.
Reading the files is not done here.

The official package for this cannot be installed beside the other OTLP exporters (each pins
another version of their common part), hence this module.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk import metrics
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from llamatelemetry.config import active_config
from llamatelemetry.otel.redaction.fail_closed import strip_message

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.view import Aggregation
    from opentelemetry.sdk.trace import ReadableSpan

_logger = logging.getLogger(__name__)

_TEMPORALITY_VARIABLE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
# What each preference makes delta; all else is cumulative.
_DELTA_INSTRUMENTS: dict[str, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (metrics.Counter, metrics.ObservableCounter, metrics.Histogram),
    "lowmemory": (metrics.Counter, metrics.Histogram),
}
_INSTRUMENTS: tuple[type, ...] = (
    metrics.Counter,
    metrics.UpDownCounter,
    metrics.Histogram,
    metrics.ObservableCounter,
    metrics.ObservableUpDownCounter,
    metrics.ObservableGauge,
)


# Parameters that are marked as unused belong to the SDK's interfaces.


class FileSpanExporter(SpanExporter):
    """Writes spans to `traces-<pid>.jsonl`; `path` is the folder, else option `export_path`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = _LineFile("traces", path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Writes one line; FAILURE, never an exception, when that cannot be done."""
        written = self._file.append(lambda: encode_spans(spans))
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Closes the file for good."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """True: every export has reached the file when it returns."""
        return True


class FileMetricExporter(MetricExporter):
    """Writes metrics to `metrics-<pid>.jsonl`; `path` is the folder, else option `export_path`.

    Sums are cumulative unless OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE says otherwise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
    ) -> None:
        super().__init__(
            preferred_temporality=_temporality() | (preferred_temporality or {}),
            preferred_aggregation=preferred_aggregation,
        )
        self._file = _LineFile("metrics", path)

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> MetricExportResult:
        """Writes one line; FAILURE, never an exception, when that cannot be done."""
        written = self._file.append(lambda: encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS if written else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Closes the file for good."""
        self._file.close()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """True: every export has reached the file when it returns."""
        return True


class FileLogExporter(LogRecordExporter):
    """Writes logs to `logs-<pid>.jsonl`; `path` is the folder, else option `export_path`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = _LineFile("logs", path)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Writes one line; FAILURE, never an exception, when that cannot be done."""
        written = self._file.append(lambda: encode_logs(batch))
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Closes the file for good."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """True: every export has reached the file when it returns."""
        return True


def _temporality() -> dict[type, AggregationTemporality]:
    preference = os.environ.get(_TEMPORALITY_VARIABLE, "").strip().lower() or "cumulative"
    if preference not in _DELTA_INSTRUMENTS:
        _logger.warning(
            "%s=%r is not accepted; expected one of %s; cumulative is used",
            _TEMPORALITY_VARIABLE,
            preference,
            ", ".join(_DELTA_INSTRUMENTS),
        )
    delta = _DELTA_INSTRUMENTS.get(preference, ())
    return {
        kind: AggregationTemporality.DELTA if kind in delta else AggregationTemporality.CUMULATIVE
        for kind in _INSTRUMENTS
    }


class _LineFile:
    """A file of lines, opened on the first write, one for each process."""

    _file_descriptor: int | None = None

    def __init__(self, signal: str, folder: str | os.PathLike[str] | None) -> None:
        # Absolute now: a program may change its working directory before the first export.
        self._folder = Path(folder or active_config().export_path).absolute()
        self._signal = signal
        self._line_is_torn = False
        self._closed = False
        self._warned = False
        self._lock = threading.Lock()
        _files.add(self)

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self._folder / f"{self._signal}-{os.getpid()}.jsonl"

    def append(self, encode: Callable[[], Message]) -> bool:
        """Writes the message as one line; False, with one warning ever, when that failed."""
        try:
            line = _json_line(encode())
            with self._lock:
                return not self._closed and self._write(line)
        except OSError as error:
            self._warn(
                "cannot write telemetry to %s: %s; free space or give the user write permission, "
                "or name another folder with LLAMATELEMETRY_EXPORT_PATH. This is said once.",
                self.path,
                error,
            )
        except Exception as error:
            # Nothing may be raised into the thread of the SDK.
            shown = strip_message(error)
            self._warn("cannot encode %s for %s", self._signal, self.path, exc_info=shown)
        return False

    def close(self) -> None:
        """Closes the file; nothing is written any more."""
        with self._lock:
            self._closed = True
            self._close_descriptor()

    def after_fork(self) -> None:
        """In the child: leaves the parent's file, and its lock, which may have been held."""
        self._lock = threading.Lock()
        self._line_is_torn = False
        self._close_descriptor()

    def _write(self, line: bytes) -> bool:
        if self._file_descriptor is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file_descriptor = os.open(self.path, flags, 0o666)
        # A single unbuffered write: lines of processes with the same id (containers that share
        # the folder) do not mix, and a crash loses nothing that was exported.
        data = b"\n" + line if self._line_is_torn else line
        written = os.write(self._file_descriptor, data)
        self._line_is_torn = written < len(data)
        if self._line_is_torn:
            raise OSError(f"only {written} of {len(data)} bytes were written")
        return True

    def __del__(self) -> None:
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        descriptor, self._file_descriptor = self._file_descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _warn(
        self, message: str, *arguments: object, exc_info: BaseException | None = None
    ) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(message, *arguments, exc_info=exc_info)


_files: weakref.WeakSet[_LineFile] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for file in list(_files):
        file.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _json_line(message: Message) -> bytes:
    data = MessageToDict(message, use_integers_for_enums=True)
    _ids_to_hex(data)
    # ASCII only: U+2028 and its like are line breaks to some readers.
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


_ID_KEYS = ("traceId", "spanId", "parentSpanId")
# The way from a request down to what carries ids; attributes, the bulk, are not walked.
_PATHS_TO_IDS = (
    *("resourceSpans", "scopeSpans", "spans", "links"),
    *("resourceLogs", "scopeLogs", "logRecords"),
    *("resourceMetrics", "scopeMetrics", "metrics", "dataPoints", "exemplars"),
    *("gauge", "sum", "histogram", "exponentialHistogram"),
)


def _ids_to_hex(node: dict[str, Any]) -> None:
    """In OTLP JSON ids are hex, where protobuf's own JSON has base64."""
    for key in _ID_KEYS:
        if key in node:
            node[key] = base64.b64decode(node[key]).hex()
    for key in _PATHS_TO_IDS:
        child = node.get(key)
        # A data point's own "sum" is a number.
        if isinstance(child, dict):
            _ids_to_hex(cast("dict[str, Any]", child))
        elif isinstance(child, list):
            for item in cast("list[dict[str, Any]]", child):
                _ids_to_hex(item)
