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
    system pick a free one. Keys come from a file, one a line, and never appear in argv.
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
    api_key_file: Path | None = None

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
        }
        flags = {
            "--embeddings": self.embeddings,
            "--metrics": self.metrics,
            "--slots": self.slots,
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
    add("--ctx-size", type=_count, default=2048, help="tokens, shared out among the slots")
    add("--parallel", type=_count, default=2, help="slots (default: %(default)s)")
    add("--threads", type=_count, default=1, help="threads that compute (default: %(default)s)")
    add("--embeddings", action="store_true", help="serve embeddings besides chat (mean pooling)")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--slots", action="store_true", help="serve /slots")
    add("--api-key-file", type=Path, help="file of accepted API keys, one a line")
    add("--watch-stdin", action="store_true", help="end when the pipe on stdin closes")
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port (0 to 65535)")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
