"""Exporters that write OTLP JSON lines: one file per signal and process.

The files are `<directory>/{traces,metrics,logs}-<pid>.jsonl`, which only this user can read. Each
line is one export request, as in
https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/. This module does not read the
files.

The official package for this cannot be installed next to the other OTLP exporters, because each
pins another version of their common part.
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

from llamatelemetry._private_files import make_private_directory, open_private_file
from llamatelemetry.config import active_config
from llamatelemetry.otel.export.log_encoder import encode_logs
from llamatelemetry.otel.redaction.fail_closed import strip_message

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.view import Aggregation
    from opentelemetry.sdk.trace import ReadableSpan

_logger = logging.getLogger(__name__)

_TEMPORALITY_VARIABLE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
# Instruments with delta temporality, by preference. All others are cumulative.
_DELTA_INSTRUMENTS: dict[str, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (metrics.Counter, metrics.ObservableCounter, metrics.Histogram),
    "lowmemory": (metrics.Counter, metrics.Histogram),
}


class _FileExporter:
    """The end of an exporter of spans or log records."""

    _file: _LineFile

    def shutdown(self) -> None:
        """Close the file. Later exports fail."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Return `True`: every export is in the file when it returns."""
        return True


class FileSpanExporter(_FileExporter, SpanExporter):
    """Writes spans to `traces-<pid>.jsonl` in `path`, by default the option `export_path`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = _LineFile("traces", path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write one line. Return `FAILURE` if that is impossible; never raise."""
        written = self._file.append(lambda: encode_spans(spans))
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE


class FileMetricExporter(MetricExporter):
    """Writes metrics to `metrics-<pid>.jsonl`.

    Args:
        path: Directory of the file; the option `export_path` if `None`.
        preferred_temporality: Temporality by instrument class. The default is cumulative, or
            the value of `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`.
        preferred_aggregation: Aggregation by instrument class, as in the SDK's exporters.
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
        """Write one line. Return `FAILURE` if that is impossible; never raise."""
        written = self._file.append(lambda: encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS if written else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the file. Later exports fail."""
        self._file.close()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Return `True`: every export is in the file when it returns."""
        return True


class FileLogExporter(_FileExporter, LogRecordExporter):
    """Writes log records to `logs-<pid>.jsonl` in `path`, by default the option `export_path`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = _LineFile("logs", path)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write one line. Return `FAILURE` if that is impossible; never raise."""
        written = self._file.append(lambda: encode_logs(batch))
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE


def _temporality() -> dict[type, AggregationTemporality]:
    preference = os.environ.get(_TEMPORALITY_VARIABLE, "").strip().lower() or "cumulative"
    if preference not in _DELTA_INSTRUMENTS:
        _logger.warning(
            "%s must be one of %s, got %r. Using cumulative",
            _TEMPORALITY_VARIABLE,
            ", ".join(_DELTA_INSTRUMENTS),
            preference,
        )
    return dict.fromkeys(_DELTA_INSTRUMENTS.get(preference, ()), AggregationTemporality.DELTA)


class _LineFile:
    """A file of lines, one per process. It is opened by the first write."""

    _file_descriptor: int | None = None

    def __init__(self, signal: str, directory: str | os.PathLike[str] | None) -> None:
        # Made absolute now, because a program can change its working directory before an export.
        self._directory = Path(directory or active_config().export_path).absolute()
        self._signal = signal
        self._line_is_torn = False
        self._closed = False
        self._warned = False
        self._lock = threading.Lock()
        _files.add(self)

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self._directory / f"{self._signal}-{os.getpid()}.jsonl"

    def append(self, encode: Callable[[], Message]) -> bool:
        """Write the message as one line. Return whether that succeeded; warn once if not."""
        try:
            line = _json_line(encode())
            with self._lock:
                return not self._closed and self._write(line)
        except OSError as error:
            self._warn(
                "Cannot write telemetry to %s (%s); it is lost. Free disk space, grant write "
                "permission or set LLAMATELEMETRY_EXPORT_PATH to another directory. Logged once",
                self.path,
                error,
            )
        except Exception as error:
            # An exception would end the SDK's export thread.
            shown = strip_message(error)
            self._warn("Cannot encode %s for %s; lost", self._signal, self.path, exc_info=shown)
        return False

    def close(self) -> None:
        """Close the file. Later writes fail."""
        with self._lock:
            self._closed = True
            self._close_descriptor()

    def detach_after_fork(self) -> None:
        """Close the parent's file in a forked child, and replace a lock that may be held."""
        self._lock = threading.Lock()
        self._line_is_torn = False
        self._close_descriptor()

    def _write(self, line: bytes) -> bool:
        if self._file_descriptor is None:
            make_private_directory(self._directory)
            flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file_descriptor = open_private_file(self.path, flags)
        # One unbuffered write. Processes with the same id (containers that share the directory)
        # then do not mix their lines, and a crash does not lose exported data.
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
        file.detach_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _json_line(message: Message) -> bytes:
    data = MessageToDict(message, use_integers_for_enums=True)
    _ids_to_hex(data)
    # ASCII only, because some readers treat U+2028 and similar characters as line breaks.
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


_ID_KEYS = ("traceId", "spanId", "parentSpanId")
# Keys from a request down to the objects with ids. Attributes, the largest part, are skipped.
_PATHS_TO_IDS = (
    *("resourceSpans", "scopeSpans", "spans", "links"),
    *("resourceLogs", "scopeLogs", "logRecords"),
    *("resourceMetrics", "scopeMetrics", "metrics", "dataPoints", "exemplars"),
    *("gauge", "sum", "histogram", "exponentialHistogram"),
)


def _ids_to_hex(node: dict[str, Any]) -> None:
    """Convert ids from base64, as protobuf's JSON has them, to hex, as OTLP JSON requires."""
    for key in _ID_KEYS:
        if key in node:
            node[key] = base64.b64decode(node[key]).hex()
    for key in _PATHS_TO_IDS:
        child = node.get(key)
        # In a data point, "sum" is a number.
        if isinstance(child, dict):
            _ids_to_hex(cast("dict[str, Any]", child))
        elif isinstance(child, list):
            for item in cast("list[dict[str, Any]]", child):
                _ids_to_hex(item)
