"""Options of the embedded server, and the command line between parent and child process.

Both processes use the same dataclass, so that the two sides of the command line stay in step.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


# Fields with other names than their flags, which are those of llama-server.
_FLAGS = {"model_path": "--model", "draft_model": "--spec-draft-model"}


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
            name = _FLAGS.get(field.name) or f"--{field.name.replace('_', '-')}"
            value = getattr(self, field.name)
            if value is True:
                arguments.append(name)
            elif value is not None and value is not False:
                # As `--name=value`, because a separate value may start with a dash.
                arguments.append(f"{name}={value}")
        return arguments


def embedded_command() -> list[str]:
    """Return the command that starts the embedded server, without its options.

    `-P` keeps the current directory off its path: a module there must not shadow a library.
    """
    return [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded"]


def parse_arguments(arguments: Sequence[str] | None = None) -> EmbeddedOptions:
    """Parse the command line."""
    return EmbeddedOptions(**vars(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llamatelemetry.llama.embedded",
        description="Run the llama.cpp server of the xllamacpp wheel in this process. Once it "
        'listens, it prints one line of JSON to stdout: {"url": ..., "pid": ...}.',
        epilog="Example: python -m llamatelemetry.llama.embedded --model model.gguf --metrics",
        allow_abbrev=False,
        # The defaults are those of EmbeddedOptions.
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", dest="model_path", type=Path, required=True, help="GGUF file to serve")
    add("--alias", help="model name in responses (default: the file name)")
    add("--host", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, help="port to listen on; 0 (the default) picks a free one")
    add("--ctx-size", type=_size, help="tokens of context, shared by the slots; 0: the model's")
    add("--parallel", type=_count, help="number of slots (default: 2)")
    add("--threads", type=_count, help="number of compute threads (default: 1)")
    add("--embeddings", action="store_true", help="also serve embeddings (mean pooling)")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--slots", action="store_true", help="serve /slots")
    add("--api-key-env", action="store_true", help="read the accepted API key from LLAMA_API_KEY")
    _add_tuning(parser)
    return parser


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add the options that have llama.cpp's default if they are omitted."""
    add = parser.add_argument
    add("--n-gpu-layers", type=int, help="number of layers on the GPU; -2 means all")
    add("--batch-size", type=_count, help="logical batch size in tokens")
    add("--ubatch-size", type=_count, help="physical batch size in tokens")
    add("--flash-attn", choices=("on", "off", "auto"), help="flash attention")
    add("--tensor-split", help="proportions of the model on each GPU, such as 3,1")
    add(
        "--split-mode",
        choices=("none", "layer", "row", "tensor"),
        help="how the model is split over GPUs",
    )
    add("--main-gpu", type=int, help="GPU of a model that is not split")
    add("--cache-type-k", help="data type of the cached keys, such as q8_0")
    add("--cache-type-v", help="data type of the cached values")
    add(
        "--load-mode",
        choices=("none", "mmap", "mlock", "mmap+mlock"),
        help="how the model file is loaded",
    )
    add("--pooling", choices=("mean", "model"), help="pooling of embeddings (default: mean)")
    add("--reranking", action="store_true", help="serve reranking")
    add("--chat-template", help="name of a template, a template, or a file with one")
    add("--spec-draft-model", dest="draft_model", type=Path, help="GGUF file of the draft model")
    add("--verbosity", type=int, help="log level: 3 is info, 4 is trace")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 65535, got {value}")
    return value


def _size(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {value}")
    return value
