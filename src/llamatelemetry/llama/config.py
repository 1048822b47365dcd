"""`ServerConfig`: what a managed llama.cpp server is started with, checked when it is made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

SPLIT_MODES = ("none", "layer", "row", "tensor")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

# Set by a field, or, in the case of keys, readable by everybody in the list of processes.
_NOT_AS_EXTRA = {
    "-m": "model_path",
    "--model": "model_path",
    "--host": "host",
    "--port": "port",
    "--api-key": "api_key",
}
_AT_LEAST = {
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
    """The options of a llama.cpp server, by meaning: `ServerManager` finds the spelling.

    A ``ValueError`` names the field that is wrong. ``model_path`` may be a folder of GGUF files:
    that makes a router server, which loads the model that a request names.

    Args:
        model_path: the GGUF file.
        host: address to listen on.
        port: 0 picks a free one.
        n_gpu_layers: layers on the GPU; -1 means all.
        n_ctx: tokens of context, shared out among the slots; 0 takes the model's own.
        flash_attn: ``None`` leaves the choice to the server.
        tensor_split: proportions of the model on each GPU, such as ``(3, 1)``.
        split_mode: how a model is spread over GPUs: none, layer, row, tensor.
        main_gpu: the GPU of a model that is not split.
        n_parallel: slots, so many requests run at once.
        n_batch: most tokens of a prompt handed over at once.
        n_ubatch: most tokens computed at once.
        threads: threads that compute; ``None`` leaves the choice to the server.
        cache_type_k: type of the cached keys, such as ``q8_0``.
        cache_type_v: type of the cached values.
        mlock: keep the model from being swapped out.
        mmap: map the model's file instead of reading it.
        embeddings: serve embeddings.
        reranking: serve reranking.
        metrics: serve ``/metrics``.
        alias: the model's name in answers; the file's name without its suffix by default.
        api_key: what clients must send; it never appears in argv.
        chat_template: the name of a built-in template, a template, or a file with one.
        draft_model: a GGUF file for speculative decoding.
        extra_args: further arguments, handed to the server as they are.
        env: further environment variables of the server.
        startup_timeout_s: how long it may take until the server is ready.
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
    # May hold secrets (HF_TOKEN), as extra_args should not.
    env: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    startup_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        self._set("model_path", _model_file("model_path", self.model_path, folder=True))
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
            raise ValueError(f"startup_timeout_s: {timeout_s!r} is not more than 0")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def model_file(self) -> Path:
        """``model_path`` as a path."""
        return Path(self.model_path)

    @property
    def is_router(self) -> bool:
        """Whether ``model_path`` is a folder, from which requests choose."""
        return self.model_file.is_dir()

    @property
    def model_name(self) -> str:
        """The model's name in answers. Never its path: that would tell about the machine."""
        return self.alias or self.model_file.stem


def _model_file(name: str, value: str | os.PathLike[str], *, folder: bool = False) -> Path:
    try:
        path = Path(value).expanduser() if value != "" else None
    except TypeError:
        path = None
    if path is None:
        raise ValueError(f"{name}: {value!r} is not a path")
    if folder and path.is_dir():
        # Where a router looks: in the folder and in the folders in it.
        if not any(next(path.glob(pattern), None) for pattern in ("*.gguf", "*/*.gguf")):
            raise ValueError(f"{name}: no GGUF file in the folder {path}")
        return path
    if not path.is_file():
        raise ValueError(f"{name}: no such file: {path}")
    try:
        with path.open("rb") as model:
            magic = model.read(4)
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ValueError(f"{name}: {path} is not a GGUF file (it begins with {magic!r})")
    return path


def _check_integers(config: ServerConfig) -> None:
    for name, least in _AT_LEAST.items():
        value: Any = getattr(config, name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: {value!r} is not an integer of {least} or more")


def _check_address(config: ServerConfig) -> None:
    port: Any = config.port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ValueError(f"port: {port!r} is not a port (0 to 65535; 0 picks a free one)")
    host: Any = config.host
    if not isinstance(host, str) or not host.strip() or any(each in host for each in "/, \n"):
        raise ValueError(f"host: {host!r} is not one host name or address")


def _one_of(name: str, value: str | None, accepted: Sequence[str]) -> None:
    if value is not None and value not in accepted:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(accepted)}")


def _proportions(value: Any) -> tuple[float, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"tensor_split: {value!r} is not a list of numbers, such as [3, 1]")
    numbers: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType] - just looked at
    for number in numbers:
        if not _is_number(number) or not math.isfinite(number) or number < 0:
            raise ValueError(f"tensor_split: {number!r} is not a number of 0 or more")
    if not any(numbers):
        raise ValueError(f"tensor_split: {value!r} gives no GPU a part of the model")
    return tuple(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_switches(config: ServerConfig) -> None:
    for name in ("mlock", "mmap", "embeddings", "reranking", "metrics", "flash_attn"):
        value: Any = getattr(config, name)
        if not isinstance(value, bool) and not (name == "flash_attn" and value is None):
            raise ValueError(f"{name}: {value!r} is not True or False")


def _check_names(config: ServerConfig) -> None:
    # llama-server splits both at commas.
    for name, shown in (("alias", repr(config.alias)), ("api_key", "the value")):
        value: Any = getattr(config, name)
        if value is None:
            continue
        if (
            not isinstance(value, str)
            or not value.strip()
            or "," in value
            or not value.isprintable()
        ):
            raise ValueError(f"{name}: {shown} is empty or has a comma or a control character")
    template: Any = config.chat_template
    if template is not None and (not isinstance(template, str) or not template):
        raise ValueError("chat_template: neither a name nor a template nor a file")


def _extra_arguments(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"extra_args: {value!r} is not a list of arguments")
    arguments = tuple(str(each) for each in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - just looked at
    for argument in arguments:
        wanted = _NOT_AS_EXTRA.get(argument.partition("=")[0])
        if wanted is not None:
            raise ValueError(
                f"extra_args: {argument.partition('=')[0]} is set by the field {wanted}"
            )
    return arguments


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("env: not a mapping of names to values")
    pairs: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType] - just looked at
    if not all(isinstance(each, str) for pair in pairs for each in pair):
        raise ValueError("env: names and values have to be strings")
    return dict(pairs)
