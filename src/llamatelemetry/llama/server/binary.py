"""Find the llama.cpp server to start: a named program, an installed one, or the embedded one."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamatelemetry.llama.server.errors import XLLAMACPP_REQUIREMENT, ServerNotFoundError

EMBEDDED = "embedded"
_PROGRAM = "llama-server"
_VARIABLE = "LLAMA_SERVER_PATH"
# A server reads options from these variables. Those meant for another server must not reach it.
_OPTION_PREFIXES = ("LLAMA_ARG_", "LLAMA_LOG_", "LLAMA_API_KEY")


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program. `path` is `None` for the embedded server."""

    path: Path | None
    found_by: str

    @property
    def name(self) -> str:
        """Name of the program for messages and spans, without its path."""
        return "xllamacpp" if self.path is None else self.path.name

    @property
    def origin(self) -> str:
        """Sentence that names the program and how it was found."""
        return f"The program is {self.path or 'the embedded server'}, {self.found_by}."


def find_binary(wanted: str | os.PathLike[str] | None = None) -> Binary:
    """Find a server: `wanted`, `LLAMA_SERVER_PATH`, `llama-server` on PATH, or the embedded one.

    Args:
        wanted: Path of a program or of its directory; `"embedded"` selects the embedded server.

    Raises:
        ServerNotFoundError: The named program does not exist, or no server is installed.
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
    """Return `LLAMA_SERVER_PATH`: the path of a llama-server or of its directory."""
    return os.environ.get(_VARIABLE)


def server_environment(extra: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """Return the environment of a server: this process's, without variables that set its options."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_OPTION_PREFIXES)
    }
    key = {} if api_key is None else {"LLAMA_API_KEY": api_key}
    return {**inherited, **key, **(extra or {})}


def _embedded() -> Binary:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ServerNotFoundError(
            f"no llama.cpp server found: `{_PROGRAM}` is not on PATH, {_VARIABLE} is not set, and "
            "the embedded server is not installed. Install one: "
            f"pip install {XLLAMACPP_REQUIREMENT} (CPU), or download a release from "
            "https://github.com/ggml-org/llama.cpp/releases"
        )
    return Binary(None, "inside xllamacpp")


def _executable(wanted: str | os.PathLike[str], source: str) -> Path:
    path = Path(wanted).expanduser()
    if path.is_dir():
        path /= _PROGRAM
    found = shutil.which(path)
    if found is None:
        raise ServerNotFoundError(
            f"{source}: program not found: {os.fspath(wanted)!r}"
            if not path.exists()
            else f"{source}: {path} is not executable. Run: chmod +x {shlex.quote(str(path))}"
        )
    return Path(found).absolute()
