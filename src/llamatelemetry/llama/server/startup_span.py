"""The start of a server as a span: the command, and how long the model took to load."""

from __future__ import annotations

import glob
import re
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import SpanKind, Status, StatusCode

from llamatelemetry import __version__
from llamatelemetry.genai import internal_errors
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.llama.server.config import ServerConfig
    from llamatelemetry.llama.server.launch import Launch

_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


class StartupSpan:
    """One INTERNAL span. It ends with the attributes of the server, or with the error."""

    def __init__(self, config: ServerConfig) -> None:
        self._started_s = time.perf_counter()
        # Get the tracer now: the providers may have been set up after the import.
        tracer = trace.get_tracer("llamatelemetry.llama", __version__)
        if not is_instrumentation_enabled():
            tracer = trace.NoOpTracer()
        # A sampler or a span processor of the application may raise. The server starts anyway.
        self._span: Span = trace.INVALID_SPAN
        try:
            self._span = tracer.start_span(
                "llama_server start",
                kind=SpanKind.INTERNAL,
                attributes={names.GEN_AI_PROVIDER_NAME: PROVIDER_LLAMA_CPP},
            )
        except Exception as error:
            internal_errors.log_once("starting the span of a server's start", error)
        if not config.is_router:
            self._span.set_attributes(
                {
                    names.SERVER_MODEL_FILE: config.model_file.name,
                    names.SERVER_MODEL_ALIAS: config.model_name,
                    names.SERVER_MODEL_SIZE: _model_bytes(config.model_file),
                }
            )

    def record_launch(self, launch: Launch) -> None:
        """Record the program, its flags and its address."""
        self._span.set_attributes(
            {
                names.SERVER_BINARY: launch.binary.name,
                names.SERVER_FLAGS: launch.shown_flags(),
                names.SERVER_ADDRESS: launch.address.host,
                names.SERVER_PORT: launch.address.port,
            }
        )

    def finish(self, description: Mapping[str, AttributeValue]) -> None:
        """End the span of a server that is ready."""
        duration_s = time.perf_counter() - self._started_s
        self._span.set_attribute(names.SERVER_LOAD_DURATION, duration_s)
        self._span.set_attributes(description)
        self._end()

    def fail(self, error: BaseException) -> None:
        """End the span with an error. Log lines are left out: they may contain prompts."""
        self._span.set_attribute(names.ERROR_TYPE, type(error).__name__)
        reason = str(error).partition("\n")[0].removesuffix("; its last log lines:")
        self._span.set_status(Status(StatusCode.ERROR, reason))
        self._end()

    def _end(self) -> None:
        try:
            self._span.end()
        except Exception as error:
            internal_errors.log_once("ending the span of a server's start", error)


def _model_bytes(path: Path) -> int:
    """Return the size of a model; of a split model, the size of all its files."""
    split = _SPLIT.search(path.name)
    if split is None:
        return path.stat().st_size
    stem = path.name[: split.start()]
    parts = path.parent.glob(f"{glob.escape(stem)}-*-of-{split[1]}.gguf")
    return sum(part.stat().st_size for part in parts)
