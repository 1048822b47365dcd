"""Spell the options of a `ServerConfig` as the `--help` of the found llama-server does.

Flags were added, removed and changed: `--mlock` became `--load-mode mlock`, `-fa` requires a value
now. A server does not start with a flag that it does not know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.llama.server.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamatelemetry.llama.server.config import ServerConfig
    from llamatelemetry.llama.server.help import ServerHelp

# The spellings of each field, newest first. For a field that is None the server's default applies.
_VALUED: Final[dict[str, tuple[str, ...]]] = {
    "n_ctx": ("--ctx-size", "-c"),
    "n_parallel": ("--parallel", "-np"),
    "n_batch": ("--batch-size", "-b"),
    "n_ubatch": ("--ubatch-size", "-ub"),
    "threads": ("--threads", "-t"),
    "split_mode": ("--split-mode", "-sm"),
    "main_gpu": ("--main-gpu", "-mg"),
    "cache_type_k": ("--cache-type-k", "-ctk"),
    "cache_type_v": ("--cache-type-v", "-ctv"),
}
_LAYERS = ("--n-gpu-layers", "--gpu-layers", "-ngl")
# More layers than any model has, for builds without the value "all".
_ALL_LAYERS = "999"
_DRAFT = ("--spec-draft-model", "--model-draft", "-md")
_SPECULATION = ("--spec-type",)
_POOLING = ("--pooling",)
_VERBOSITY = ("--verbosity", "--log-verbosity", "-lv")
# Builds with this level log on it how the loader uses memory.
_TRACE_LEVEL = re.compile(r"\b(\d+): trace\b")
# By `mlock` and `mmap`. `None` is the default of all builds.
LOAD_MODES: Final = {
    (False, True): None,
    (False, False): "none",
    (True, True): "mmap+mlock",
    (True, False): "mlock",
}
_POOLING_KEY = b".pooling_type"
_METADATA_BYTES = 262_144


def server_flags(
    config: ServerConfig, port: int, server_help: ServerHelp, binary: str
) -> list[str]:
    """Return the arguments of a server for a configuration, without the API key.

    `binary` is the program's name for error messages.

    Raises:
        UnsupportedOptionError: The server has no flag for an option.
    """
    return [*_FlagBuilder(config, server_help, binary).flags(port), *config.extra_args]


class _FlagBuilder:
    def __init__(self, config: ServerConfig, server_help: ServerHelp, binary: str) -> None:
        self._config = config
        self._help = server_help
        self._binary = binary

    def flags(self, port: int) -> Iterator[str]:
        config = self._config
        yield from self._model()
        yield from (self._name("host", "--host"), config.host.strip("[]"))
        yield from (self._name("port", "--port"), str(port))
        for field, names in _VALUED.items():
            value: Any = getattr(config, field)
            if value is not None:
                yield from (self._name(field, *names), str(value))
        yield from self._layers()
        if config.tensor_split is not None:
            parts = ",".join(f"{part:g}" for part in config.tensor_split)
            yield from (self._name("tensor_split", "--tensor-split", "-ts"), parts)
        yield from self._flash_attention()
        yield from self._load_mode()
        yield from self._endpoints()
        yield from self._template()
        yield from self._draft()
        yield from self._verbosity()

    def _name(self, field: str, *names: str) -> str:
        found = self._help.find(*names)
        if found is None:
            raise UnsupportedOptionError(
                f"{self._binary} has no flag for ServerConfig.{field}: "
                f"its --help lists none of {', '.join(names)}"
            )
        return found[0]

    def _model(self) -> Iterator[str]:
        config = self._config
        if config.is_router:
            name = self._name("model_path (a directory)", "--models-dir")
            yield from (name, str(config.model_file))
            return
        yield from (self._name("model_path", "--model", "-m"), str(config.model_file))
        # Without an alias some builds return the whole path as the model name.
        if config.alias is not None or self._help.find("--alias", "-a"):
            yield from (self._name("alias", "--alias", "-a"), config.model_name)

    def _layers(self) -> Iterator[str]:
        wanted, found = self._config.n_gpu_layers, self._help.find(*_LAYERS)
        if wanted >= 0:
            yield from (self._name("n_gpu_layers", *_LAYERS), str(wanted))
        elif found is not None:
            # Builds without GPU support have no such flag.
            yield from (found[0], "all" if "'all'" in found[1].text else _ALL_LAYERS)

    def _flash_attention(self) -> Iterator[str]:
        wanted = self._config.flash_attn
        if wanted is None:
            return
        name = self._name("flash_attn", "--flash-attn", "-fa")
        found = self._help.find(name)
        if found is not None and found[1].hint:
            yield from (name, "on" if wanted else "off")
        elif wanted:
            # In old builds the flag is a switch, which is off by default.
            yield name

    def _load_mode(self) -> Iterator[str]:
        mlock, mmap = self._config.mlock, self._config.mmap
        mode = LOAD_MODES[mlock, mmap]
        if mode is None:
            return
        found = self._help.find("--load-mode", "-lm")
        if found is None:
            if mlock:
                yield self._name("mlock", "--load-mode", "--mlock")
            if not mmap:
                yield self._name("mmap", "--load-mode", "--no-mmap")
            return
        if not re.search(rf"(?<![\w+]){re.escape(mode)}(?![\w+])", found[1].text):
            raise UnsupportedOptionError(
                f"{self._binary} has no load mode {mode!r} for ServerConfig.mlock and mmap"
            )
        yield from (found[0], mode)

    def _endpoints(self) -> Iterator[str]:
        config = self._config
        metrics = self._help.find("--metrics")
        # `metrics` is on by default, so that builds without the flag must start without it.
        if config.metrics and metrics:
            yield metrics[0]
        if config.embeddings:
            yield self._name("embeddings", "--embeddings", "--embedding")
            yield from self._pooling()
        if config.reranking:
            yield self._name("reranking", "--reranking", "--rerank")

    def _pooling(self) -> Iterator[str]:
        found = self._help.find(*_POOLING)
        given = set(_POOLING) & set(self._config.extra_args)
        if found and not given and not self._config.reranking and needs_pooling(self._config):
            yield from (found[0], "mean")

    def _template(self) -> Iterator[str]:
        template = self._config.chat_template
        if template is None:
            return
        is_file, is_inline = _is_file(template), "{" in template
        # --jinja goes first: builds with this flag accept arbitrary templates only after it.
        if (is_file or is_inline) and (jinja := self._help.find("--jinja")):
            yield jinja[0]
        name = "--chat-template-file" if is_file else "--chat-template"
        yield from (self._name("chat_template", name), template)

    def _draft(self) -> Iterator[str]:
        if self._config.draft_model is None:
            return
        yield from (self._name("draft_model", *_DRAFT), str(self._config.draft_model))
        kind = self._help.find(*_SPECULATION)
        if kind and kind[0] not in self._config.extra_args and "draft-simple" in kind[1].text:
            # In these builds the draft model alone has no effect.
            yield from (kind[0], "draft-simple")

    def _verbosity(self) -> Iterator[str]:
        found = self._help.find(*_VERBOSITY)
        given = {*_VERBOSITY, "-v", "--verbose", "--log-verbose", "--log-disable"}
        if found is None or given & set(self._config.extra_args):
            return
        level = _TRACE_LEVEL.search(found[1].text)
        if level:
            yield from (found[0], level[1])


def needs_pooling(config: ServerConfig) -> bool:
    """Return whether the model file defines no pooling for embeddings, as chat models do not.

    Without pooling the OpenAI endpoint returns an error. The key is searched for instead of
    parsed: it precedes the vocabulary in the file.
    """
    if config.is_router:
        return False
    with config.model_file.open("rb") as model:
        return _POOLING_KEY not in model.read(_METADATA_BYTES)


def _is_file(template: str) -> bool:
    try:
        return Path(template).is_file()
    except OSError:
        # An inline template is longer than a file name may be.
        return False
