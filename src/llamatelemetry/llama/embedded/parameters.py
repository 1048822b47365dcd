"""Translate `EmbeddedOptions` to the parameters of xllamacpp.

xllamacpp has no type information: the wheel is one extension module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamatelemetry.llama.embedded.options import EmbeddedOptions

_FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
_LOAD_MODES = {"none": "NONE", "mmap": "MMAP", "mlock": "MLOCK", "mmap+mlock": "MMAP_MLOCK"}


def server_parameters(xllamacpp: Any, options: EmbeddedOptions) -> Any:
    """Return the `CommonParams` of a server.

    Raises:
        AttributeError: This version of xllamacpp has other parameters.
        OSError: The chat template cannot be read.
        ValueError: An option has an invalid value, or there is no API key.
    """
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.model_path)
    # Without an alias the server returns the whole path as the model name.
    parameters.model_alias = {options.alias or options.model_path.stem}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_ctx = options.ctx_size
    parameters.n_parallel = options.parallel
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.ui = False
    parameters.endpoint_metrics = options.metrics
    parameters.endpoint_slots = options.slots
    if options.embeddings:
        parameters.embedding = True
        if options.pooling != "model":
            # Mean pooling returns one vector per input, and chat goes on working.
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if options.reranking:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    parameters.api_keys = _api_keys(options)
    _set_optional(parameters, options)
    _set_enumerations(xllamacpp, parameters, options)
    if options.draft_model is not None:
        parameters.speculative.draft.mparams.path = str(options.draft_model)
        kinds = xllamacpp.common_speculative_type
        parameters.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    return parameters


def _api_keys(options: EmbeddedOptions) -> list[str]:
    if options.api_key_env:
        key = os.environ.get("LLAMA_API_KEY", "").strip()
        if not key:
            raise ValueError("LLAMA_API_KEY is not set")
        return [key]
    return []


def _set_optional(parameters: Any, options: EmbeddedOptions) -> None:
    plain = {
        "n_gpu_layers": options.n_gpu_layers,
        "n_batch": options.batch_size,
        "n_ubatch": options.ubatch_size,
        "main_gpu": options.main_gpu,
        "verbosity": options.verbosity,
    }
    for name, value in plain.items():
        if value is not None:
            setattr(parameters, name, value)
    if options.tensor_split is not None:
        shares = [float(part) for part in options.tensor_split.split(",")]
        size = len(parameters.tensor_split)
        parameters.tensor_split = [*shares, *[0.0] * size][:size]
    if options.chat_template is not None:
        parameters.chat_template = _template(options.chat_template)


def _set_enumerations(xllamacpp: Any, parameters: Any, options: EmbeddedOptions) -> None:
    if options.flash_attn is not None:
        parameters.flash_attn_type = _member(
            xllamacpp.llama_flash_attn_type, _FLASH_ATTENTION[options.flash_attn]
        )
    if options.load_mode is not None:
        parameters.load_mode = _member(xllamacpp.llama_load_mode, _LOAD_MODES[options.load_mode])
    if options.split_mode is not None:
        parameters.split_mode = _member(xllamacpp.llama_split_mode, options.split_mode.upper())
    if options.cache_type_k is not None:
        parameters.cache_type_k = _member(xllamacpp.ggml_type, options.cache_type_k.upper())
    if options.cache_type_v is not None:
        parameters.cache_type_v = _member(xllamacpp.ggml_type, options.cache_type_v.upper())


def _member(enumeration: Any, suffix: str) -> Any:
    """Return a member of a C enumeration: `LLAMA_LOAD_MODE_MMAP` of `llama_load_mode` for `MMAP`."""
    prefix = enumeration.__name__.upper()
    try:
        return getattr(enumeration, f"{prefix}_{suffix}")
    except AttributeError:
        raise ValueError(f"this llama.cpp has no {enumeration.__name__} {suffix.lower()}") from None


def _template(template: str) -> str:
    try:
        if Path(template).is_file():
            return Path(template).read_text(encoding="utf-8")
    except OSError:
        # An inline template is longer than a file name may be.
        pass
    return template
