"""Loading of a model and its tokenizer: by name, from a directory, or from a GGUF file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry._optional import required_by
from llamatelemetry.genai import model_name

if TYPE_CHECKING:
    from types import ModuleType

_REQUIREMENTS: Final = ("transformers", "torch")
_GENERATES: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class LoadedModel(NamedTuple):
    """A model in evaluation mode, and its tokenizer.

    `name` is that on the Hub, or of the directory or file. `generates`: whether it generates text.
    """

    model: Any
    tokenizer: Any
    name: str
    device: Any
    generates: bool


def load(
    name_or_path: str | Path, *, device: Any, dtype: Any, trust_remote_code: bool
) -> LoadedModel:
    """Load the model of a `TransformersBackend`, which documents the arguments.

    Raises:
        ImportError: transformers or torch is not installed, or `gguf` for a GGUF file.
        FileNotFoundError: The GGUF file does not exist.
        ValueError: torch has no such data type.
    """
    torch, transformers = _library("torch"), _library("transformers")
    if isinstance(dtype, str) and dtype != "auto":
        dtype = _dtype(torch, dtype)
    where, options = _source(name_or_path)
    options["trust_remote_code"] = trust_remote_code
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    kind, generates = _kind(transformers, where, options)
    if dtype is not None:
        # Version 4.56 introduced the new name and deprecated the old one.
        version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        options["torch_dtype" if version < (4, 56) else "dtype"] = dtype
    model = kind.from_pretrained(where, **options)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    name = options.get("gguf_file") or _name(where)
    return LoadedModel(model, tokenizer, name, model.device, generates)


def _library(name: str) -> ModuleType:
    with required_by("TransformersBackend", *_REQUIREMENTS):
        return importlib.import_module(name)


def _dtype(torch: Any, name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype must be a data type of torch such as 'bfloat16', got {name!r}")
    return found


def _source(name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(name_or_path)
    if path.suffix.lower() != ".gguf":
        return str(name_or_path), {}
    if not path.is_file():
        raise FileNotFoundError(
            f"GGUF file not found: {path}. Download a GGUF file from the Hub first"
        )
    with required_by("Reading a GGUF file with transformers", "gguf", "accelerate"):
        importlib.import_module("gguf")
    return str(path.parent), {"gguf_file": path.name}


def _name(where: str) -> str:
    path = Path(where)
    return path.resolve().name if path.exists() else model_name(where) or where


def _kind(transformers: Any, where: str, options: dict[str, Any]) -> tuple[Any, bool]:
    if "gguf_file" in options:  # reading the file takes seconds, so it is read once
        return transformers.AutoModelForCausalLM, True
    config = transformers.AutoConfig.from_pretrained(where, **options)
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM, True
    architectures: list[str] = config.architectures or []
    if architectures and not architectures[0].endswith(_GENERATES):
        return transformers.AutoModel, False
    return transformers.AutoModelForCausalLM, True
