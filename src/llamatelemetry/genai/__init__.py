"""The complete interface for plugins: everything that instruments a library is here.

A plugin uses, in this order:

- `PatchTable` and `PatchPoint`: the functions of a library to wrap;
- `Request`: the request, which a wrapper parses from the arguments of the function;
- `plugin_instrumenter` and `Instrumenter.start`: the `Call`, with the span and metrics of one request;
- `Response`, or a parser of a known protocol such as `parse_response`: the result of the call;
- `StreamObserver` with a `StreamWrapper` and an accumulator: the result of a stream.

`docs/contribute/writing-a-plugin.md` describes it with a complete example. Plugins import nothing below this
package; import-linter checks that. This package does not import the OpenTelemetry SDK.
"""

from __future__ import annotations

from sys import modules
from time import monotonic
from typing import Any

from llamatelemetry._limits import Limit
from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.call import Call, Instrumenter, current_call
from llamatelemetry.genai.configured import ConfiguredInstrumenter, plugin_instrumenter
from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.completion_hook import CompletionHook
from llamatelemetry.genai.content.messages import (
    parse_chat_request,
    parse_choices,
    parse_completion_request,
)
from llamatelemetry.genai.content.parts import text_part
from llamatelemetry.genai.content.responses_messages import parse_responses_request
from llamatelemetry.genai.deferred_metrics import wait_for_thread
from llamatelemetry.genai.engine import InferenceEngine
from llamatelemetry.genai.engines import read_engine_headers
from llamatelemetry.genai.engines.proofs import provider_from_headers, provider_from_models
from llamatelemetry.genai.errors import (
    ErrorInfo,
    describe_error,
    describe_reported_error,
    describe_status,
)
from llamatelemetry.genai.json_access import (
    as_count,
    as_dict,
    as_float,
    as_int,
    as_list,
    as_str,
    get_field,
    model_name,
)
from llamatelemetry.genai.model import (
    Content,
    EngineTimings,
    Phases,
    Request,
    Response,
    Server,
    Usage,
)
from llamatelemetry.genai.patching import PatchPoint, PatchSwitch, PatchTable, make_patch_link
from llamatelemetry.genai.phases import measure_phases
from llamatelemetry.genai.server_metadata import parse_props, server_metadata_cache
from llamatelemetry.genai.servers import (
    is_loopback,
    known_servers,
    server_of,
)
from llamatelemetry.genai.streams import open_streams as _open_streams
from llamatelemetry.genai.streams.abandoned_calls import finalizer as _finalizer
from llamatelemetry.genai.streams.accumulators import Accumulator, ChatAccumulator
from llamatelemetry.genai.streams.byte_observers import (
    BodyBytesObserver,
    EventBytesObserver,
    ProvisionalBodyObserver,
    ProvisionalObserver,
    event_bytes_observer,
    may_prove_engine,
)
from llamatelemetry.genai.streams.content_decoders import content_decoder
from llamatelemetry.genai.streams.event_accumulators import MediaAccumulator, ResponsesAccumulator
from llamatelemetry.genai.streams.observers import (
    AsyncStreamWrapper,
    Observer,
    StreamObserver,
    StreamWrapper,
)
from llamatelemetry.genai.streams.steps import STEP_EVENT, GenerationSteps
from llamatelemetry.genai.wire.anthropic import AnthropicAccumulator, parse_messages_response
from llamatelemetry.genai.wire.bodies import BodyCapture, parse_body
from llamatelemetry.genai.wire.llama_cpp import LlamaCppAccumulator, parse_native_completion
from llamatelemetry.genai.wire.ollama import (
    OllamaAccumulator,
    parse_ollama_chat_request,
    parse_ollama_generate_request,
    parse_ollama_parameters,
    parse_ollama_response,
)
from llamatelemetry.genai.wire.openai_chat import (
    parse_choice_count,
    parse_parameters,
    parse_response,
)
from llamatelemetry.genai.wire.openai_responses import (
    parse_created_response,
    parse_fetched_response,
    parse_responses_parameters,
)
from llamatelemetry.genai.wire.sglang import (
    SGLangAccumulator,
    parse_sglang_choice_count,
    parse_sglang_parameters,
    parse_sglang_request,
    parse_sglang_response,
)
from llamatelemetry.genai.wire.sse import EventReader
from llamatelemetry.otel.process.forking import ForkSafeLock

__all__ = [
    "STEP_EVENT",
    "Accumulator",
    "AnthropicAccumulator",
    "AsyncStreamWrapper",
    "BlobData",
    "BodyBytesObserver",
    "BodyCapture",
    "Call",
    "ChatAccumulator",
    "CompletionHook",
    "ConfiguredInstrumenter",
    "Content",
    "EngineTimings",
    "ErrorInfo",
    "EventBytesObserver",
    "EventReader",
    "ForkSafeLock",
    "GenerationSteps",
    "InferenceEngine",
    "Instrumenter",
    "Limit",
    "LlamaCppAccumulator",
    "MediaAccumulator",
    "Observer",
    "OllamaAccumulator",
    "PatchPoint",
    "PatchSwitch",
    "PatchTable",
    "Phases",
    "ProvisionalBodyObserver",
    "ProvisionalObserver",
    "Request",
    "Response",
    "ResponsesAccumulator",
    "SGLangAccumulator",
    "Server",
    "StreamObserver",
    "StreamWrapper",
    "Usage",
    "as_count",
    "as_dict",
    "as_float",
    "as_int",
    "as_list",
    "as_str",
    "content_decoder",
    "current_call",
    "describe_error",
    "describe_reported_error",
    "describe_status",
    "end_open_streams",
    "event_bytes_observer",
    "flush_pending",
    "get_field",
    "internal_errors",
    "is_loopback",
    "known_servers",
    "make_patch_link",
    "may_prove_engine",
    "measure_phases",
    "model_name",
    "parse_body",
    "parse_chat_request",
    "parse_choice_count",
    "parse_choices",
    "parse_completion_request",
    "parse_created_response",
    "parse_fetched_response",
    "parse_messages_response",
    "parse_native_completion",
    "parse_ollama_chat_request",
    "parse_ollama_generate_request",
    "parse_ollama_parameters",
    "parse_ollama_response",
    "parse_parameters",
    "parse_props",
    "parse_response",
    "parse_responses_parameters",
    "parse_responses_request",
    "parse_sglang_choice_count",
    "parse_sglang_parameters",
    "parse_sglang_request",
    "parse_sglang_response",
    "plugin_instrumenter",
    "provider_from_headers",
    "provider_from_models",
    "read_engine_headers",
    "server_metadata_cache",
    "server_of",
    "stop_finalizer",
    "text_part",
]


def end_open_streams() -> None:
    """End the calls of streams that are open when the program ends, with what has arrived."""
    _open_streams.end_all()


def flush_pending(timeout_s: float) -> bool:
    """End the calls of abandoned streams. Return whether that took no longer than `timeout_s`."""
    return _finalizer.flush(timeout_s)


def stop_finalizer(timeout_s: float) -> bool:
    """Stop the threads of this package. Return whether they stopped.

    They end abandoned calls, record metrics, and sample servers.

    They start again when they are needed.
    """
    deadline_s = monotonic() + timeout_s
    stopped = _finalizer.stop(timeout_s)
    stopped = wait_for_thread(max(0.0, deadline_s - monotonic())) and stopped
    # Loaded only with diagnostics.
    diagnostics: Any = modules.get(f"{__name__}.diagnostics")
    if diagnostics is not None:
        stopped = diagnostics.sampler.stop(max(0.0, deadline_s - monotonic())) and stopped
    return stopped
