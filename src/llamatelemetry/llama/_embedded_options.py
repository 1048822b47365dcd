"""The options of the embedded server, as the parent spells them and the child reads them.

One dataclass stands on both sides of the command line, so that the two cannot drift apart.
It imports nothing but the standard library: the child starts with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """What the embedded llama.cpp server is started with.

    ``ctx_size`` is shared out among the ``parallel`` slots, as in llama.cpp. ``port=0`` lets the
    system pick a free one. Keys come from a file, one a line, or from ``LLAMA_API_KEY``, and never
    appear in argv. What is ``None`` is left to llama.cpp; values are spelled as its flags have them.
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
    warmup: bool = False
    api_key_file: Path | None = None
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
        """The command line that ``parse_arguments`` turns back into these options."""
        valued = {
            "--model": self.model_path,
            "--alias": self.alias,
            "--host": self.host,
            "--port": self.port,
            "--ctx-size": self.ctx_size,
            "--parallel": self.parallel,
            "--threads": self.threads,
            "--api-key-file": self.api_key_file,
            "--n-gpu-layers": self.n_gpu_layers,
            "--batch-size": self.batch_size,
            "--ubatch-size": self.ubatch_size,
            "--flash-attn": self.flash_attn,
            "--tensor-split": self.tensor_split,
            "--split-mode": self.split_mode,
            "--main-gpu": self.main_gpu,
            "--cache-type-k": self.cache_type_k,
            "--cache-type-v": self.cache_type_v,
            "--load-mode": self.load_mode,
            "--pooling": self.pooling,
            "--chat-template": self.chat_template,
            "--spec-draft-model": self.draft_model,
            "--verbosity": self.verbosity,
        }
        flags = {
            "--embeddings": self.embeddings,
            "--metrics": self.metrics,
            "--slots": self.slots,
            "--warmup": self.warmup,
            "--api-key-env": self.api_key_env,
            "--reranking": self.reranking,
        }
        # ``--name=value``, since a value of its own may begin with a dash.
        given = [f"{name}={value}" for name, value in valued.items() if value is not None]
        return given + [name for name, is_set in flags.items() if is_set]


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[EmbeddedOptions, bool]:
    """Read the command line; the second value tells whether to end with the pipe on stdin."""
    namespace = vars(_parser().parse_args(arguments))
    watch_stdin = bool(namespace.pop("watch_stdin"))
    return EmbeddedOptions(**namespace), watch_stdin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llamatelemetry.llama.embedded",
        description="Run the llama.cpp server of the xllamacpp wheel as a process of its own. "
        'When it listens, one line of JSON goes to stdout: {"url": ..., "pid": ...}.',
        epilog="Example: python -m llamatelemetry.llama.embedded --model model.gguf --metrics",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", dest="model_path", type=Path, required=True, help="the GGUF file to serve")
    add("--alias", help="the model's name in answers (default: the file's name)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=0, help="0 (the default) picks a free port")
    add(
        "--ctx-size",
        type=_size,
        default=2048,
        help="tokens, shared out among the slots; 0 takes the model's",
    )
    add("--parallel", type=_count, default=2, help="slots (default: %(default)s)")
    add("--threads", type=_count, default=1, help="threads that compute (default: %(default)s)")
    add("--embeddings", action="store_true", help="serve embeddings besides chat (mean pooling)")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--slots", action="store_true", help="serve /slots")
    add("--warmup", action="store_true", help="compute once before the first request")
    add("--api-key-file", type=Path, help="file of accepted API keys, one a line")
    add("--api-key-env", action="store_true", help="take the accepted key from LLAMA_API_KEY")
    _add_tuning(parser)
    add("--watch-stdin", action="store_true", help="end when the pipe on stdin closes")
    return parser


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """What a managed server may be told besides; everything is llama.cpp's default when left out."""
    add = parser.add_argument
    add("--n-gpu-layers", type=int, help="layers on the GPU; -2 means all")
    add("--batch-size", type=_count, help="most tokens of a prompt handed over at once")
    add("--ubatch-size", type=_count, help="most tokens computed at once")
    add("--flash-attn", choices=("on", "off", "auto"), help="flash attention")
    add("--tensor-split", help="proportions of the model on each GPU, such as 3,1")
    add("--split-mode", choices=("none", "layer", "row", "tensor"), help="how GPUs share a model")
    add("--main-gpu", type=int, help="the GPU of a model that is not split")
    add("--cache-type-k", help="type of the cached keys, such as q8_0")
    add("--cache-type-v", help="type of the cached values")
    add("--load-mode", choices=("none", "mmap", "mlock", "mmap+mlock"), help="how files are loaded")
    add("--pooling", choices=("mean", "model"), help="of embeddings; the default is mean")
    add("--reranking", action="store_true", help="serve reranking")
    add("--chat-template", help="a template's name, a template, or a file with one")
    add("--spec-draft-model", dest="draft_model", type=Path, help="GGUF file that drafts")
    add("--verbosity", type=int, help="what is logged: 3 information, 4 more of it")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port (0 to 65535)")
    return value


def _size(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
