"""A `ServerConfig` and a server that was found, made into a command with its environment."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamatelemetry.llama._embedded_options import EmbeddedOptions
from llamatelemetry.llama._listening import Address
from llamatelemetry.llama.binary import embedded_command, server_environment
from llamatelemetry.llama.flags import needs_pooling, read_help, server_flags
from llamatelemetry.llama.launch_errors import UnsupportedOptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.llama.binary import Binary
    from llamatelemetry.llama.config import ServerConfig

_KEY_VARIABLE = "LLAMA_API_KEY"
_SECRET = re.compile(r"key|token|password|secret|auth", re.IGNORECASE)
_IS_FLAG = re.compile(r"--?[A-Za-z]")
_LONGEST_SHOWN = 200
_ALL_LAYERS = -2  # as common_params has it; -1 there is "auto"
_MORE_INFORMATION = 4  # the level of the loader's account of memory


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, and where it will answer."""

    command: tuple[str, ...]
    environment: dict[str, str]
    flags: tuple[str, ...]
    address: Address
    binary: Binary

    def shown_flags(self) -> list[str]:
        """The flags for a span: one string each, without secrets, folders and templates."""
        shown: list[str] = []
        for argument in self.flags:
            if _IS_FLAG.match(argument):
                name, equals, value = argument.partition("=")
                shown.append(f"{name} {_shown_value(name, value)}" if equals else name)
            elif shown:
                shown[-1] += f" {_shown_value(shown[-1], argument)}"
        return shown


def prepare_launch(config: ServerConfig, binary: Binary, port: int) -> Launch:
    """Make the command; `UnsupportedOptionError` when the server cannot do what is asked for."""
    environment = server_environment(config.env, config.api_key)
    if binary.path is None:
        flags = embedded_options(config, port).arguments()
        command = [*embedded_command(), *flags]
        # Under opentelemetry-instrument the server would be instrumented too.
        environment["OTEL_SDK_DISABLED"] = "true"
    else:
        server_help = read_help(binary, server_environment(config.env, None))
        if config.api_key is not None and not server_help.mentions(_KEY_VARIABLE):
            raise UnsupportedOptionError(
                f"{binary.name} takes API keys from its arguments only, where everybody can read "
                "them; ServerConfig.api_key needs a newer one"
            )
        flags = server_flags(config, port, server_help, binary.name)
        command = [str(binary.path), *flags]
    return Launch(tuple(command), environment, tuple(flags), _address(config, port), binary)


def embedded_options(config: ServerConfig, port: int) -> EmbeddedOptions:
    """The same config for the embedded server, which has the same names for the same things."""
    if config.extra_args or config.is_router:
        wanted = "extra_args" if config.extra_args else "a folder as model_path"
        raise UnsupportedOptionError(
            f"the embedded server does not take {wanted}: that needs a llama-server program"
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
        # As llama.cpp does where nothing is said: about one for each core, not hyper-thread.
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
        load_mode=_LOAD_MODES[config.mlock, config.mmap],
        pooling="mean" if config.embeddings and needs_pooling(config) else "model",
        reranking=config.reranking,
        chat_template=config.chat_template,
        draft_model=None if draft is None else Path(draft),
        verbosity=_MORE_INFORMATION,
    )


_LOAD_MODES = {
    (False, True): None,
    (False, False): "none",
    (True, True): "mmap+mlock",
    (True, False): "mlock",
}


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
    if "{" in value or "\n" in value or len(value) > _LONGEST_SHOWN:
        return "..."
    return value.rpartition("/")[2]
