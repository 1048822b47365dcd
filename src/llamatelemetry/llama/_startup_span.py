"""The start of a server as a span: what was started, how long the model took to load."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import SpanKind, Status, StatusCode

from llamatelemetry import __version__
from llamatelemetry.genai import parse_props
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.llama._launch import Launch
    from llamatelemetry.llama._load_report import LoadReport
    from llamatelemetry.llama.config import ServerConfig

_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


class StartupSpan:
    """One INTERNAL span, ended once: with what is known of the server, or with the error."""

    def __init__(self, config: ServerConfig) -> None:
        self._started_s = time.perf_counter()
        # Asked for now: the providers may have been set up since the import.
        tracer = trace.get_tracer("llamatelemetry.llama", __version__)
        if not is_instrumentation_enabled():
            tracer = trace.NoOpTracer()
        self._span = tracer.start_span(
            "llama_server start",
            kind=SpanKind.INTERNAL,
            attributes={
                names.GEN_AI_PROVIDER_NAME: PROVIDER_LLAMA_CPP,
            },
        )
        if not config.is_router:
            self._span.set_attributes(
                {
                    names.SERVER_MODEL_FILE: config.model_file.name,
                    names.SERVER_MODEL_ALIAS: config.model_name,
                    names.SERVER_MODEL_SIZE: model_bytes(config.model_file),
                }
            )

    def note_launch(self, binary_name: str, launch: Launch) -> None:
        """Note what is about to be run."""
        self._span.set_attributes(
            {
                names.SERVER_BINARY: binary_name,
                names.SERVER_FLAGS: launch.shown_flags(),
                names.SERVER_ADDRESS: launch.address.host,
                names.SERVER_PORT: launch.address.port,
            }
        )

    def finish(self, description: Mapping[str, AttributeValue]) -> None:
        """The server is ready."""
        duration_s = time.perf_counter() - self._started_s
        self._span.set_attribute(names.SERVER_LOAD_DURATION, duration_s)
        self._span.set_attributes(description)
        self._span.end()

    def fail(self, error: BaseException) -> None:
        """It did not get ready. The log lines stay out: they may hold what a prompt says."""
        self._span.set_attribute(names.ERROR_TYPE, type(error).__name__)
        reason = str(error).partition("\n")[0].removesuffix("; its last log lines:")
        self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.end()


def model_bytes(path: Path) -> int:
    """The size of a model, all parts of a split one together."""
    split = _SPLIT.search(path.name)
    if split is None:
        return path.stat().st_size
    stem = path.name[: split.start()]
    return sum(part.stat().st_size for part in path.parent.glob(f"{stem}-*-of-{split[1]}.gguf"))


def describe(
    config: ServerConfig, props: Mapping[str, Any], report: LoadReport
) -> dict[str, AttributeValue]:
    """What a server is: by its config, its ``/props`` and its log. Unknown things are left out."""
    facts: dict[str, Any] = {
        **parse_props(props).attributes,
        names.SERVER_MODEL_FILE: None if config.is_router else config.model_file.name,
        names.SERVER_GPU_LAYERS: report.gpu_layers,
    }
    if report.memory:
        kinds = list(report.memory.values())
        facts[names.SERVER_MEMORY_DEVICES] = list(report.memory)
        facts[names.SERVER_MEMORY_MODEL] = [each["model"] for each in kinds]
        facts[names.SERVER_MEMORY_CONTEXT] = [each["context"] for each in kinds]
        facts[names.SERVER_MEMORY_COMPUTE] = [each["compute"] for each in kinds]
    return {name: value for name, value in facts.items() if value is not None}
