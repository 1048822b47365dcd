"""The complete interface for plugins: everything that instruments a library is here.

A plugin uses, in this order:

- `LibraryPatches` and `PatchPoint`: the libraries, and their functions to wrap;
- `Request`: the request, which a wrapper parses from the arguments of the function;
- `plugin_instrumenter` and `Instrumenter.start`: the `Call`, with the span and metrics of one request;
- `Response`, or a parser of a known protocol such as `parse_response`: the result of the call;
- `StreamObserver` with a `StreamWrapper` and an accumulator: the result of a stream.

`docs/contribute/writing-a-plugin.md` describes it with a complete example. Plugins import nothing below this
package; import-linter checks that. This package does not import the OpenTelemetry SDK.

Names are loaded on first use (PEP 562). A program that imports none of the instrumented libraries
then does not pay for the code that records their calls.
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from sys import modules
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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
    from llamatelemetry.genai.patching import (
        LibraryPatches,
        PatchPoint,
        PatchSwitch,
        PatchTable,
        make_patch_link,
    )
    from llamatelemetry.genai.phases import measure_phases
    from llamatelemetry.genai.server_metadata import parse_props, server_metadata_cache
    from llamatelemetry.genai.servers import is_loopback, known_servers, server_of
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
    from llamatelemetry.genai.streams.event_accumulators import (
        MediaAccumulator,
        ResponsesAccumulator,
    )
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
    "LibraryPatches",
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

_MODULES: Final = {
    name: f"llamatelemetry.{module}"
    for module, names in {
        "_limits": "Limit",
        "genai.call": "Call Instrumenter current_call",
        "genai.configured": "ConfiguredInstrumenter plugin_instrumenter",
        "genai.content.blobs": "BlobData",
        "genai.content.completion_hook": "CompletionHook",
        "genai.content.messages": "parse_chat_request parse_choices parse_completion_request",
        "genai.content.parts": "text_part",
        "genai.content.responses_messages": "parse_responses_request",
        "genai.engine": "InferenceEngine",
        "genai.engines": "read_engine_headers",
        "genai.engines.proofs": "provider_from_headers provider_from_models",
        "genai.errors": "ErrorInfo describe_error describe_reported_error describe_status",
        "genai.json_access": "as_count as_dict as_float as_int as_list as_str get_field model_name",
        "genai.model": "Content EngineTimings Phases Request Response Server Usage",
        "genai.patching": "LibraryPatches PatchPoint PatchSwitch PatchTable make_patch_link",
        "genai.phases": "measure_phases",
        "genai.server_metadata": "parse_props server_metadata_cache",
        "genai.servers": "is_loopback known_servers server_of",
        "genai.streams.accumulators": "Accumulator ChatAccumulator",
        "genai.streams.byte_observers": (
            "BodyBytesObserver EventBytesObserver ProvisionalBodyObserver ProvisionalObserver "
            "event_bytes_observer may_prove_engine"
        ),
        "genai.streams.content_decoders": "content_decoder",
        "genai.streams.event_accumulators": "MediaAccumulator ResponsesAccumulator",
        "genai.streams.observers": "AsyncStreamWrapper Observer StreamObserver StreamWrapper",
        "genai.streams.steps": "STEP_EVENT GenerationSteps",
        "genai.wire.anthropic": "AnthropicAccumulator parse_messages_response",
        "genai.wire.bodies": "BodyCapture parse_body",
        "genai.wire.llama_cpp": "LlamaCppAccumulator parse_native_completion",
        "genai.wire.ollama": (
            "OllamaAccumulator parse_ollama_chat_request parse_ollama_generate_request "
            "parse_ollama_parameters parse_ollama_response"
        ),
        "genai.wire.openai_chat": "parse_choice_count parse_parameters parse_response",
        "genai.wire.openai_responses": (
            "parse_created_response parse_fetched_response parse_responses_parameters"
        ),
        "genai.wire.sglang": (
            "SGLangAccumulator parse_sglang_choice_count parse_sglang_parameters "
            "parse_sglang_request parse_sglang_response"
        ),
        "genai.wire.sse": "EventReader",
        "otel.process.forking": "ForkSafeLock",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def end_open_streams() -> None:
    """End the calls of streams that are open when the program ends, with what has arrived."""
    open_streams = _loaded("streams.open_streams")
    if open_streams is not None:
        open_streams.end_all()


def flush_pending(timeout_s: float) -> bool:
    """End the calls of abandoned streams. Return whether that took no longer than `timeout_s`."""
    abandoned_calls = _loaded("streams.abandoned_calls")
    return abandoned_calls is None or abandoned_calls.finalizer.flush(timeout_s)


def stop_finalizer(timeout_s: float) -> bool:
    """Stop the threads of this package. Return whether they stopped.

    They end abandoned calls, record metrics, and sample servers. They start again when they are
    needed.
    """
    deadline_s = monotonic() + timeout_s
    stopped = True
    for name, stop in (
        ("streams.abandoned_calls", "finalizer.stop"),
        ("deferred_metrics", "wait_for_thread"),
        ("diagnostics", "sampler.stop"),
    ):
        module = _loaded(name)
        if module is not None:
            remaining_s = max(0.0, deadline_s - monotonic())
            stopped = attrgetter(stop)(module)(remaining_s) and stopped
    return stopped


def _loaded(name: str) -> Any:
    """Return a module of this package, or `None` if nothing has needed it yet."""
    return modules.get(f"{__name__}.{name}")
