"""Parse the `--help` of a llama-server into the options that it supports."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamatelemetry.llama.server.errors import (
    ServerManagerError,
    describe_exit,
    explain_exit,
    explain_os_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llamatelemetry.llama.server.binary import Binary

_HELP_TIMEOUT_S = 60.0
_NAME = re.compile(r"--?[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class HelpEntry:
    """One option of a `--help`. `hint` is the placeholder of its value; empty for a switch."""

    names: tuple[str, ...]
    hint: str
    text: str


class ServerHelp:
    """The options that the `--help` of a server lists."""

    def __init__(self, entries: list[HelpEntry]) -> None:
        self._entries = {name: entry for entry in entries for name in entry.names}

    def find(self, *names: str) -> tuple[str, HelpEntry] | None:
        """Return the first of these spellings that is listed, with its entry."""
        for name in names:
            entry = self._entries.get(name)
            if entry is not None:
                return name, entry
        return None

    def mentions(self, word: str) -> bool:
        """Return whether the text of any option contains a word, such as a variable name."""
        return any(word in entry.text for entry in self._entries.values())


def parse_help(text: str) -> ServerHelp:
    """Parse the output of `--help` of new and old builds.

    | Line | Names | Hint |
    |---|---|---|
    | `-fa,   --flash-attn [on|off|auto]  …` | both | `[on|off|auto]` |
    | `-fa,   --flash-attn             enable …` | both | none |
    | `-m FNAME, --model FNAME` | both | `FNAME` |
    """
    entries: list[HelpEntry] = []
    for block in _blocks(text):
        names, hint = _names_and_hint(block[0])
        whole = "\n".join(block)
        # Some builds list removed options, only to name their replacement.
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
        # A placeholder may precede the comma: "-m FNAME, --model FNAME".
        comma = re.match(r"(?: [^\s,]+)?,\s+(?=-)", rest)
        if comma is None:
            hint = re.match(r" (\S+(?: \S+)*)", rest)
            return tuple(names), hint[1] if hint else ""
        rest = rest[comma.end() :]


_cache: dict[tuple[str, int, int], ServerHelp] = {}


def read_help(binary: Binary, environment: Mapping[str, str]) -> ServerHelp:
    """Run a server with `--help` and parse the output. Cached until the file changes."""
    path = binary.path
    if path is None:
        raise AssertionError("unreachable: the embedded server has no --help")
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if key not in _cache:
        _cache[key] = parse_help(_help_text(path, binary.origin, environment))
    return _cache[key]


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
        raise ServerManagerError(f"cannot run `{path} --help`: {error}") from error
    except OSError as error:
        cause, remedy = explain_os_error(error)
        reason = f"{error.strerror}: {cause}" if cause else str(error)
        raise ServerManagerError(
            f"cannot run `{path} --help`: {reason}", advice=f"{remedy} {origin}".strip()
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
        f"`{path} --help` is not the help of a llama-server (exit status {code})", log_lines=log
    )
