"""The options of the embedded server that have a counterpart in llama-server's flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamatelemetry.llama._embedded_options import EmbeddedOptions

_FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
_LOAD_MODES = {"none": "NONE", "mmap": "MMAP", "mlock": "MLOCK", "mmap+mlock": "MMAP_MLOCK"}


def tune(xllamacpp: Any, parameters: Any, options: EmbeddedOptions) -> None:
    """Set what was asked for; everything else stays as llama.cpp has it."""
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
    _tune_enumerations(xllamacpp, parameters, options)
    if options.tensor_split is not None:
        shares = [float(part) for part in options.tensor_split.split(",")]
        room = len(parameters.tensor_split)
        parameters.tensor_split = [*shares, *[0.0] * room][:room]
    if options.chat_template is not None:
        parameters.chat_template = _template(options.chat_template)
    if options.draft_model is not None:
        parameters.speculative.draft.mparams.path = str(options.draft_model)
        kinds = xllamacpp.common_speculative_type
        parameters.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]


def _tune_enumerations(xllamacpp: Any, parameters: Any, options: EmbeddedOptions) -> None:
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


def _member(enumeration: Any, ending: str) -> Any:
    """``LLAMA_LOAD_MODE_MMAP`` of ``llama_load_mode`` for ``MMAP``; ``ggml`` calls F16 so too."""
    prefix = enumeration.__name__.upper()
    try:
        return getattr(enumeration, f"{prefix}_{ending}")
    except AttributeError:
        raise ValueError(f"this llama.cpp has no {enumeration.__name__} {ending.lower()}") from None


def _template(template: str) -> str:
    try:
        if Path(template).is_file():
            return Path(template).read_text(encoding="utf-8")
    except OSError:  # a template is longer than a name can be
        pass
    return template
