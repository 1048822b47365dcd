"""Build the command and the environment of a server from a `ServerConfig`."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamatelemetry.llama.embedded.options import EmbeddedOptions, embedded_command
from llamatelemetry.llama.server.address import Address
from llamatelemetry.llama.server.binary import server_environment
from llamatelemetry.llama.server.errors import UnsupportedOptionError
from llamatelemetry.llama.server.flags import LOAD_MODES, needs_pooling, server_flags
from llamatelemetry.llama.server.help import read_help

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.llama.server.binary import Binary
    from llamatelemetry.llama.server.config import ServerConfig

_KEY_VARIABLE = "LLAMA_API_KEY"
_SECRET = re.compile(r"key|token|password|secret|auth", re.IGNORECASE)
_IS_FLAG = re.compile(r"--?[A-Za-z]")
_SHOWN_CHARS = 200
# The value of common_params for all layers; -1 there means "auto".
_ALL_LAYERS = -2
# The level on which the loader logs how it uses memory.
_LOADER_VERBOSITY = 4


@dataclass(frozen=True, slots=True)
class Launch:
    """A command with its environment, and the address at which it will serve."""

    command: tuple[str, ...]
    environment: dict[str, str]
    flags: tuple[str, ...]
    address: Address
    binary: Binary

    def shown_flags(self) -> list[str]:
        """Return the flags for a span: one string each, without secrets, directories and templates."""
        shown: list[str] = []
        for argument in self.flags:
            if _IS_FLAG.match(argument):
                name, equals, value = argument.partition("=")
                shown.append(f"{name} {_shown_value(name, value)}" if equals else name)
            elif shown:
                shown[-1] += f" {_shown_value(shown[-1], argument)}"
        return shown


def prepare_launch(config: ServerConfig, binary: Binary, port: int) -> Launch:
    """Build the command of a server.

    Raises:
        UnsupportedOptionError: The server does not support an option of the configuration.
    """
    environment = server_environment(config.env, config.api_key)
    if binary.path is None:
        flags = embedded_options(config, port).arguments()
        command = [*embedded_command(), *flags]
        # Under opentelemetry-instrument the child process would be instrumented too.
        environment["OTEL_SDK_DISABLED"] = "true"
    else:
        server_help = read_help(binary, server_environment(config.env, None))
        if config.api_key is not None and not server_help.mentions(_KEY_VARIABLE):
            raise UnsupportedOptionError(
                f"{binary.name} accepts API keys only as arguments, which every user of this machine "
                f"can read. ServerConfig.api_key needs a build that reads {_KEY_VARIABLE}"
            )
        flags = server_flags(config, port, server_help, binary.name)
        command = [str(binary.path), *flags]
    return Launch(tuple(command), environment, tuple(flags), _address(config, port), binary)


def embedded_options(config: ServerConfig, port: int) -> EmbeddedOptions:
    """Return the options of the embedded server for a configuration."""
    if config.extra_args or config.is_router:
        wanted = "extra_args" if config.extra_args else "a directory as model_path"
        raise UnsupportedOptionError(
            f"the embedded server does not support {wanted}. Use a llama-server program"
        )
    split = config.tensor_split
    draft = config.draft_model
    return EmbeddedOptions(
        model_path=config.model_file,
        alias=config.model_name,
        host=config.host.strip("[]"),
        port=port,
        ctx_size=config.n_ctx,
        parallel=config.n_parallel,
        # The default of llama.cpp: about one thread for each core, not for each hyper-thread.
        threads=config.threads or max(1, (os.cpu_count() or 2) // 2),
        embeddings=config.embeddings,
        metrics=config.metrics,
        slots=True,
        api_key_env=config.api_key is not None,
        n_gpu_layers=_ALL_LAYERS if config.n_gpu_layers < 0 else config.n_gpu_layers,
        batch_size=config.n_batch,
        ubatch_size=config.n_ubatch,
        flash_attn={None: None, True: "on", False: "off"}[config.flash_attn],
        tensor_split=None if split is None else ",".join(f"{part:g}" for part in split),
        split_mode=config.split_mode,
        main_gpu=config.main_gpu,
        cache_type_k=config.cache_type_k,
        cache_type_v=config.cache_type_v,
        load_mode=LOAD_MODES[config.mlock, config.mmap],
        pooling="mean" if config.embeddings and needs_pooling(config) else "model",
        reranking=config.reranking,
        chat_template=config.chat_template,
        draft_model=None if draft is None else Path(draft),
        verbosity=_LOADER_VERBOSITY,
    )


def _address(config: ServerConfig, port: int) -> Address:
    extra = config.extra_args
    prefix = _value_of("--api-prefix", extra) or ""
    scheme = "https" if _value_of("--ssl-cert-file", extra) else "http"
    return Address.of(config.host, port, scheme, prefix.rstrip("/"))


def _value_of(name: str, arguments: Sequence[str]) -> str | None:
    for flag, value in itertools.pairwise(arguments):
        if flag == name:
            return value
    return None


def _shown_value(flag: str, value: str) -> str:
    if _SECRET.search(flag):
        return "***"
    if "{" in value or "\n" in value or len(value) > _SHOWN_CHARS:
        return "..."
    return value.rpartition("/")[2]
