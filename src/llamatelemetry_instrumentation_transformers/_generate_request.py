"""Request of a `generate`, parsed from its arguments: the operation by kind of input and output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import Content, Request, as_int, as_list, text_part
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import (
    GENERATE_CONTENT,
    PROVIDER_HUGGINGFACE,
    TEXT_COMPLETION,
)
from llamatelemetry_instrumentation_transformers._counting import has_non_text_input
from llamatelemetry_instrumentation_transformers._model import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPEECH_LISTS: Final = (
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES",
)
_OUTPUT_TYPES: Final = {"text": "text", "audio": "speech", "image": "image"}
# Name of the task on the Hub. The conventions have no operation for it.
_FORECASTING: Final = "time-series-forecasting"


def parse_generate_request(model: Any, given: Mapping[str, Any]) -> Request:
    """Return the request of a `generate` with these arguments."""
    request = Request(
        operation=TEXT_COMPLETION,
        provider=PROVIDER_HUGGINGFACE,
        model=name_of(model),
        stream=given.get("streamer") is not None,
        has_queue=False,
    )
    if given.get("past_values") is not None:
        request.operation, request.task = None, _FORECASTING
        request.parameters[names.TASK] = _FORECASTING
    else:
        output_type = _output_type(model, given)
        if output_type != "text" or not _is_text(given):
            request.operation = GENERATE_CONTENT
        if output_type in ("speech", "image"):
            request.parameters[names.GEN_AI_OUTPUT_TYPE] = output_type
    longest = as_int(given.get("max_new_tokens"))
    if longest is not None:
        request.parameters[names.GEN_AI_REQUEST_MAX_TOKENS] = longest
    tokenizer = tokenizer_of(given)
    if tokenizer is not None:
        request.read_content = lambda: _prompts(given, tokenizer)
    return request


def _output_type(model: Any, given: Mapping[str, Any]) -> str | None:
    """Return what a `generate` returns: text, speech or an image; `None` if it is several."""
    mode = given.get("generation_mode")
    if mode in _OUTPUT_TYPES:
        return _OUTPUT_TYPES[mode]
    if given.get("generate_speech") is False or given.get("return_audio") is False:
        return "text"
    lists: Any = sys.modules.get("transformers.models.auto.modeling_auto")
    name = type(model).__name__
    if any(name in getattr(lists, each, {}).values() for each in _SPEECH_LISTS):
        return "speech"
    # Versions before 5 have only the lists.
    modalities = as_list(getattr(model, "output_modalities", None)) or ("text",)
    return _OUTPUT_TYPES.get(modalities[0]) if len(modalities) == 1 else None


def _is_text(given: Mapping[str, Any]) -> bool:
    # Token ids, or the main input of a model for sound or images.
    inputs: Any = given.get("inputs")
    has_numbers = hasattr(inputs, "is_floating_point") and inputs.is_floating_point()
    return not has_numbers and not has_non_text_input(given)


def tokenizer_of(given: Mapping[str, Any]) -> Any:
    """Return the tokenizer that the caller passed. `generate` itself does not need one."""
    tokenizer = given.get("tokenizer")
    return getattr(given.get("streamer"), "tokenizer", None) if tokenizer is None else tokenizer


def _prompts(given: Mapping[str, Any], tokenizer: Any) -> Content:
    tokens = given.get("inputs")
    tokens = given.get("input_ids") if tokens is None else tokens
    if tokens is None or tokens.ndim != 2 or tokens.is_floating_point():
        return Content()
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in tokens.tolist()]
    return Content(inputs=[{"role": "user", "parts": text_part(text)} for text in texts])
