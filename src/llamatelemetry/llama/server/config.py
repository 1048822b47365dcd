"""`ServerConfig`: the options of a managed llama.cpp server, validated on construction."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

SPLIT_MODES = ("none", "layer", "row", "tensor")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

# Flags that fields set. A key in argv would also be readable by every user of the machine.
_FIELD_OF_FLAG = {
    "-m": "model_path",
    "--model": "model_path",
    "--host": "host",
    "--port": "port",
    "--api-key": "api_key",
}
_MINIMA = {
    "n_gpu_layers": -1,
    "n_ctx": 0,
    "n_parallel": 1,
    "main_gpu": 0,
    "n_batch": 1,
    "n_ubatch": 1,
    "threads": 1,
}


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The options of a llama.cpp server, independent of the flag names of its build.

    `ServerManager` spells them as the `--help` of the found server does. If `model_path` is a
    directory of GGUF files, the server is a router, which loads the model that a request names.

    Args:
        model_path: GGUF file, or a directory of GGUF files.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        n_gpu_layers: Number of layers on the GPU; -1 means all.
        n_ctx: Context size in tokens, shared by the slots; 0 uses the model's own.
        flash_attn: Whether to use flash attention; `None` uses the server's default.
        tensor_split: Proportions of the model on each GPU, such as `(3, 1)`.
        split_mode: How a model is distributed over GPUs: `none`, `layer`, `row` or `tensor`.
        main_gpu: Index of the GPU of a model that is not split.
        n_parallel: Number of slots, which is the number of concurrent requests.
        n_batch: Logical batch size in tokens.
        n_ubatch: Physical batch size in tokens.
        threads: Number of compute threads; `None` uses the server's default.
        cache_type_k: Data type of the cached keys, such as `q8_0`.
        cache_type_v: Data type of the cached values.
        mlock: Whether to lock the model in memory, so that it is not swapped out.
        mmap: Whether to map the model file instead of reading it.
        embeddings: Whether to serve embeddings.
        reranking: Whether to serve reranking.
        metrics: Whether to serve `/metrics`.
        alias: Model name in responses; the file name without its suffix by default.
        api_key: API key that clients must send. It never appears in argv.
        chat_template: Name of a built-in template, a template, or a file with a template.
        draft_model: GGUF file for speculative decoding.
        extra_args: Further arguments, passed to the server unchanged.
        env: Further environment variables of the server.
        startup_timeout_s: Maximum time in seconds until the server is ready.

    Raises:
        ValueError: A field has an invalid value; the message names the field.

    Examples:
        >>> from llamatelemetry import ServerConfig
        >>> config = ServerConfig("model.gguf", port=0, n_ctx=8192, n_parallel=4, tensor_split=(3, 1))
        >>> config.model_name, config.is_router
        ('model', False)
        >>> ServerConfig("model.gguf", port=70000)
        Traceback (most recent call last):
        ValueError: port must be an integer from 0 (any free port) to 65535, got 70000
        >>> ServerConfig("missing.gguf")
        Traceback (most recent call last):
        ValueError: model_path must be an existing file, got missing.gguf
    """

    model_path: str | os.PathLike[str]
    _: KW_ONLY
    host: str = "127.0.0.1"
    port: int = 8080
    n_gpu_layers: int = -1
    n_ctx: int = 4096
    flash_attn: bool | None = None
    tensor_split: Sequence[float] | None = None
    split_mode: str | None = None
    main_gpu: int | None = None
    n_parallel: int = 1
    n_batch: int | None = None
    n_ubatch: int | None = None
    threads: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    mlock: bool = False
    mmap: bool = True
    embeddings: bool = False
    reranking: bool = False
    metrics: bool = True
    alias: str | None = None
    api_key: str | None = field(default=None, repr=False)
    chat_template: str | None = None
    draft_model: str | os.PathLike[str] | None = None
    extra_args: Sequence[str] = ()
    # Left out of the repr: it may hold secrets, such as HF_TOKEN.
    env: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    startup_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        self._set("model_path", _model_file("model_path", self.model_path, accept_directory=True))
        if self.draft_model is not None:
            self._set("draft_model", _model_file("draft_model", self.draft_model))
        _check_integers(self)
        _check_address(self)
        _one_of("split_mode", self.split_mode, SPLIT_MODES)
        _one_of("cache_type_k", self.cache_type_k, CACHE_TYPES)
        _one_of("cache_type_v", self.cache_type_v, CACHE_TYPES)
        if self.tensor_split is not None:
            self._set("tensor_split", _proportions(self.tensor_split))
        _check_switches(self)
        _check_names(self)
        self._set("extra_args", _extra_arguments(self.extra_args))
        self._set("env", None if self.env is None else _environment(self.env))
        timeout_s: Any = self.startup_timeout_s
        if not _is_number(timeout_s) or not timeout_s > 0:
            raise ValueError(f"startup_timeout_s must be greater than 0, got {timeout_s!r}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def model_file(self) -> Path:
        """`model_path` as a path."""
        return Path(self.model_path)

    @property
    def is_router(self) -> bool:
        """Whether `model_path` is a directory of models."""
        return self.model_file.is_dir()

    @property
    def model_name(self) -> str:
        """Model name in responses. Never its path, which would disclose details of the machine."""
        return self.alias or self.model_file.stem


def _model_file(
    name: str, value: str | os.PathLike[str], *, accept_directory: bool = False
) -> Path:
    try:
        path = Path(value).expanduser() if value != "" else None
    except TypeError:
        path = None
    if path is None:
        raise ValueError(f"{name} must be a path, got {value!r}")
    if accept_directory and path.is_dir():
        # A router looks in the directory and in its subdirectories, one level deep.
        if not any(next(path.glob(pattern), None) for pattern in ("*.gguf", "*/*.gguf")):
            raise ValueError(f"{name} must contain a GGUF file, got the directory {path}")
        return path
    if not path.is_file():
        raise ValueError(f"{name} must be an existing file, got {path}")
    try:
        with path.open("rb") as model:
            magic = model.read(4)
    except OSError as error:
        raise ValueError(f"{name} must be a readable file, got {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise ValueError(f"{name} must be a GGUF file, got {path}, which starts with {magic!r}")
    return path


def _check_integers(config: ServerConfig) -> None:
    for name, least in _MINIMA.items():
        value: Any = getattr(config, name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def _check_address(config: ServerConfig) -> None:
    port: Any = config.port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ValueError(f"port must be an integer from 0 (any free port) to 65535, got {port!r}")
    host: Any = config.host
    if not isinstance(host, str) or not host.strip() or any(each in host for each in "/, \n"):
        raise ValueError(f"host must be one host name or address, got {host!r}")


def _one_of(name: str, value: str | None, accepted: Sequence[str]) -> None:
    if value is not None and value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")


def _proportions(value: Any) -> tuple[float, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"tensor_split must be a list of numbers such as [3, 1], got {value!r}")
    numbers: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType] - just checked
    for number in numbers:
        if not _is_number(number) or not math.isfinite(number) or number < 0:
            raise ValueError(f"tensor_split must contain only numbers >= 0, got {number!r}")
    if not any(numbers):
        raise ValueError(f"tensor_split must contain a number > 0, got {value!r}")
    return tuple(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_switches(config: ServerConfig) -> None:
    for name in ("mlock", "mmap", "embeddings", "reranking", "metrics", "flash_attn"):
        value: Any = getattr(config, name)
        if not isinstance(value, bool) and not (name == "flash_attn" and value is None):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def _check_names(config: ServerConfig) -> None:
    # llama-server splits both at commas. The message must not contain the key.
    for name, shown in (("alias", f", got {config.alias!r}"), ("api_key", "")):
        value: Any = getattr(config, name)
        if value is None:
            continue
        if (
            not isinstance(value, str)
            or not value.strip()
            or not value.isprintable()
            or "," in value
        ):
            raise ValueError(
                f"{name} must be a non-empty string without commas and control characters{shown}"
            )
    template: Any = config.chat_template
    if template is not None and (not isinstance(template, str) or not template):
        raise ValueError(
            f"chat_template must be a template, its name or its file, got {template!r}"
        )


def _extra_arguments(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"extra_args must be a list of arguments, got {value!r}")
    arguments = tuple(str(each) for each in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - just checked
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _FIELD_OF_FLAG:
            raise ValueError(
                f"extra_args must not contain {flag}. Set the field {_FIELD_OF_FLAG[flag]} instead"
            )
    return arguments


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"env must be a mapping, got {type(value).__name__}")
    pairs: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType] - just checked
    if not all(isinstance(each, str) for pair in pairs for each in pair):
        raise ValueError("env must have strings as names and values")
    return dict(pairs)
