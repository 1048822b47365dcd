"""How a found llama-server spells the options of a `ServerConfig`: as its own ``--help`` says.

Flags have come, gone and changed (``--mlock`` became ``--load-mode mlock``, ``-fa`` wants a value
now), and a server refuses to start with one it does not know.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.llama._endings import describe_exit, explain_exit, explain_os_error
from llamatelemetry.llama.launch_errors import ServerManagerError, UnsupportedOptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llamatelemetry.llama.binary import Binary
    from llamatelemetry.llama.config import ServerConfig

_HELP_TIMEOUT_S = 60.0
_NAME = re.compile(r"--?[A-Za-z][\w-]*")

# Field: spellings, newest first. A field that is None is left to the server.
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
# More than any model has: what "all" was before there was a word for it.
_ALL_LAYERS = "999"
_DRAFT = ("--spec-draft-model", "--model-draft", "-md")
_SPECULATION = ("--spec-type",)
_POOLING = ("--pooling",)
_VERBOSITY = ("--verbosity", "--log-verbosity", "-lv")
# Where the scale has this step, the loader's account of memory is on it.
_TRACE_LEVEL = re.compile(r"\b(\d+): trace\b")
_OWN_POOLING = b".pooling_type"
_METADATA_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class HelpEntry:
    """One option of a ``--help``: all its spellings, the hint of its value, all its text."""

    names: tuple[str, ...]
    hint: str
    text: str


class ServerHelp:
    """The options that a server's ``--help`` lists."""

    def __init__(self, entries: list[HelpEntry]) -> None:
        self._entries = {name: entry for entry in entries for name in entry.names}

    def find(self, *names: str) -> tuple[str, HelpEntry] | None:
        """The first of these spellings that is listed, with its entry."""
        for name in names:
            entry = self._entries.get(name)
            if entry is not None:
                return name, entry
        return None

    def mentions(self, word: str) -> bool:
        """Whether any option's text has the word, such as the name of a variable."""
        return any(word in entry.text for entry in self._entries.values())


def parse_help(text: str) -> ServerHelp:
    """Read the output of ``--help``, of new builds and of old ones.

    =======================================  =======================
    line                                     names, hint
    =======================================  =======================
    ``-fa,   --flash-attn [on|off|auto]  …``  both, ``[on|off|auto]``
    ``-fa,   --flash-attn             enable …``  both, none
    ``-m FNAME, --model FNAME``              both, ``FNAME``
    =======================================  =======================
    """
    entries: list[HelpEntry] = []
    for block in _blocks(text):
        names, hint = _names_and_hint(block[0])
        whole = "\n".join(block)
        # Kept in the list of some builds only to say what has taken their place.
        if names and "argument has been removed" not in whole:
            entries.append(HelpEntry(names, hint, whole))
    return ServerHelp(entries)


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent <= 4 and _NAME.match(line.lstrip()):
            if block:
                yield block
            block = [line.strip()]
        elif block and line.strip():
            block.append(line)
    if block:
        yield block


def _names_and_hint(line: str) -> tuple[tuple[str, ...], str]:
    names: list[str] = []
    rest = line
    while True:
        found = _NAME.match(rest)
        if found is None:
            return tuple(names), ""
        names.append(found[0])
        rest = rest[found.end() :]
        # A placeholder may stand before the comma: "-m FNAME, --model FNAME".
        comma = re.match(r"(?: [^\s,]+)?,\s+(?=-)", rest)
        if comma is None:
            hint = re.match(r" (\S+(?: \S+)*)", rest)
            return tuple(names), hint[1] if hint else ""
        rest = rest[comma.end() :]


_known: dict[tuple[str, int, int], ServerHelp] = {}


def read_help(binary: Binary, environment: Mapping[str, str]) -> ServerHelp:
    """Ask a server for its ``--help``; once, until the file changes."""
    path = binary.path
    if path is None:
        raise AssertionError("unreachable: the embedded server has no --help")
    facts = path.stat()
    key = (str(path), facts.st_mtime_ns, facts.st_size)
    if key not in _known:
        _known[key] = parse_help(_help_text(path, binary.origin, environment))
    return _known[key]


def _help_text(path: Path, origin: str, environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(path), "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            encoding="utf-8",
            errors="replace",
            timeout=_HELP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerManagerError(f"`{path} --help` does not work: {error}") from error
    except OSError as error:
        cause, remedy = explain_os_error(error)
        reason = f"{error.strerror}: {cause}" if cause else str(error)
        raise ServerManagerError(
            f"`{path} --help` does not work: {reason}", advice=f"{remedy} {origin}".strip()
        ) from error
    if parse_help(done.stdout).find("--model", "-m") is not None:
        return done.stdout
    log, code = done.stdout.splitlines(), done.returncode
    cause, remedy = explain_exit(code, log, embedded=False)
    if cause:
        raise ServerManagerError(
            f"`{path} --help` {describe_exit(code)}: {cause}",
            log_lines=log,
            exit_code=code,
            advice=f"{remedy} {origin}",
        )
    raise ServerManagerError(
        f"`{path} --help` is not that of a llama-server (exit status {code})", log_lines=log
    )


def server_flags(
    config: ServerConfig, port: int, server_help: ServerHelp, binary: str
) -> list[str]:
    """The arguments of a server for a config, less ``api_key``, which is no argument."""
    return [*_Spelling(config, server_help, binary).flags(port), *config.extra_args]


class _Spelling:
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
            yield from (self._name("model_path (a folder)", "--models-dir"), str(config.model_file))
            return
        yield from (self._name("model_path", "--model", "-m"), str(config.model_file))
        # Without it some builds answer with the whole path as the model's name.
        if config.alias is not None or self._help.find("--alias", "-a"):
            yield from (self._name("alias", "--alias", "-a"), config.model_name)

    def _layers(self) -> Iterator[str]:
        wanted, found = self._config.n_gpu_layers, self._help.find(*_LAYERS)
        if wanted >= 0:
            yield from (self._name("n_gpu_layers", *_LAYERS), str(wanted))
        elif found is not None:  # a build that cannot offload has nothing to be told
            yield from (found[0], "all" if "'all'" in found[1].text else _ALL_LAYERS)

    def _flash_attention(self) -> Iterator[str]:
        wanted = self._config.flash_attn
        if wanted is None:
            return
        name = self._name("flash_attn", "--flash-attn", "-fa")
        found = self._help.find(name)
        if found is not None and found[1].hint:
            yield from (name, "on" if wanted else "off")
        elif wanted:  # a switch, off unless it is given
            yield name

    def _load_mode(self) -> Iterator[str]:
        mlock, mmap = self._config.mlock, self._config.mmap
        if mmap and not mlock:
            return  # the default of all builds
        found = self._help.find("--load-mode", "-lm")
        if found is None:
            if mlock:
                yield self._name("mlock", "--load-mode", "--mlock")
            if not mmap:
                yield self._name("mmap", "--load-mode", "--no-mmap")
            return
        mode = "none" if not mlock else "mmap+mlock" if mmap else "mlock"
        if not re.search(rf"(?<![\w+]){re.escape(mode)}(?![\w+])", found[1].text):
            raise UnsupportedOptionError(
                f"{self._binary} has no load mode {mode!r} for ServerConfig.mlock and mmap"
            )
        yield from (found[0], mode)

    def _endpoints(self) -> Iterator[str]:
        config = self._config
        metrics = self._help.find("--metrics")
        if config.metrics and metrics:  # a default: builds before it start all the same
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
        # Before the template: builds that know --jinja accept any template only after it.
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
            yield from (kind[0], "draft-simple")  # there the draft model alone does nothing

    def _verbosity(self) -> Iterator[str]:
        found = self._help.find(*_VERBOSITY)
        given = {*_VERBOSITY, "-v", "--verbose", "--log-verbose", "--log-disable"}
        if found is None or given & set(self._config.extra_args):
            return
        level = _TRACE_LEVEL.search(found[1].text)
        if level:
            yield from (found[0], level[1])


def needs_pooling(config: ServerConfig) -> bool:
    """Whether a model does not say itself how its embeddings are pooled, as chat models do not.

    Without pooling the OpenAI endpoint refuses. The key is searched for, not parsed: it stands
    among the model's own, before the vocabulary.
    """
    if config.is_router:
        return False
    with config.model_file.open("rb") as model:
        return _OWN_POOLING not in model.read(_METADATA_BYTES)


def _is_file(template: str) -> bool:
    try:
        return Path(template).is_file()
    except OSError:  # a template is longer than a name can be
        return False
