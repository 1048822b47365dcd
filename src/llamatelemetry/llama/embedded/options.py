"""Options of the embedded server, and the command line between parent and child process.

Both sides of the command line are generated from the fields of one dataclass.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


# Fields with other names than their flags, which are those of llama-server.
_FLAGS = {"model_path": "--model", "draft_model": "--spec-draft-model"}
_TYPES = {"int": int, "str": str, "Path": Path}
_MINIMA = {"ctx_size": 0, "parallel": 1, "threads": 1, "batch_size": 1, "ubatch_size": 1}
_LAST_PORT = 65535
_CHOICES = {
    "flash_attn": ("on", "off", "auto"),
    "split_mode": ("none", "layer", "row", "tensor"),
    "load_mode": ("none", "mmap", "mlock", "mmap+mlock"),
    "pooling": ("mean", "model"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """Options of the embedded llama.cpp server, with the names and values of its flags.

    The `parallel` slots share `ctx_size`, as in llama.cpp. With `port=0` the system picks a free
    port. `api_key_env` reads the API key from `LLAMA_API_KEY`, because every user can read argv. An
    option that is `None` has llama.cpp's default.
    """

    model_path: Path
    alias: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    ctx_size: int = 2048
    parallel: int = 2
    threads: int = 1
    embeddings: bool = False
    metrics: bool = False
    slots: bool = False
    api_key_env: bool = False
    n_gpu_layers: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    flash_attn: str | None = None
    tensor_split: str | None = None
    split_mode: str | None = None
    main_gpu: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    load_mode: str | None = None
    pooling: str | None = None
    reranking: bool = False
    chat_template: str | None = None
    draft_model: Path | None = None
    verbosity: int | None = None

    def arguments(self) -> list[str]:
        """Return the command line that `parse_arguments` parses into these options."""
        arguments: list[str] = []
        for field in fields(self):
            name = _flag(field.name)
            value = getattr(self, field.name)
            if value is True:
                arguments.append(name)
            elif value is not None and value is not False:
                # As `--name=value`, because a separate value may start with a dash.
                arguments.append(f"{name}={value}")
        return arguments


def _flag(name: str) -> str:
    return _FLAGS.get(name) or f"--{name.replace('_', '-')}"


def embedded_command() -> list[str]:
    """Return the command that starts the embedded server, without its options.

    `-P` keeps the current directory off its path: a module there must not shadow a library.
    """
    return [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded"]


def parse_arguments(arguments: Sequence[str] | None = None) -> EmbeddedOptions:
    """Parse the command line. Exit with status 2 if it is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m llamatelemetry.llama.embedded",
        description="Run the llama.cpp server of the xllamacpp wheel in this process. Once it "
        'listens, it prints one line of JSON to stdout: {"url": ..., "pid": ...}. The options are '
        "those of llama-server.",
        epilog="Example: python -m llamatelemetry.llama.embedded --model model.gguf --metrics",
        allow_abbrev=False,
        # The defaults are those of EmbeddedOptions.
        argument_default=argparse.SUPPRESS,
    )
    for field in fields(EmbeddedOptions):
        kind = str(field.type).removesuffix(" | None")
        if kind == "bool":
            parser.add_argument(_flag(field.name), dest=field.name, action="store_true")
        else:
            parser.add_argument(
                _flag(field.name),
                dest=field.name,
                type=_TYPES[kind],
                choices=_CHOICES.get(field.name),
                required=field.default is MISSING,
            )
    options = EmbeddedOptions(**vars(parser.parse_args(arguments)))
    for name, least in _MINIMA.items():
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"{_flag(name)} must be an integer >= {least}, got {value}")
    if not 0 <= options.port <= _LAST_PORT:
        parser.error(f"--port must be an integer from 0 to {_LAST_PORT}, got {options.port}")
    return options
