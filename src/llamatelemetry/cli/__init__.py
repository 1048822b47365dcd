"""The command line `llamatelemetry`. Its packages are imported when it runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from llamatelemetry._optional import MissingPackageError, required_by

__all__ = ["main"]

_INTERRUPTED: Final = 130
# Typer's variable for the completion of a shell.
_COMPLETION: Final = "_LLAMATELEMETRY_COMPLETE"


def main() -> None:
    """Run the command line. Exit status: 0 success, 1 failure, 2 usage error or missing package."""
    _prepare_output()
    status: Any = 0
    try:
        with required_by("The command line", "llamatelemetry"):
            status = _run(sys.argv[1:])
    except MissingPackageError as error:
        status = _report(str(error), 2)
    except KeyboardInterrupt:
        status = _report("Interrupted", _INTERRUPTED)
    except OSError as error:
        status = _report(f"error: {error}", 1)
    except SystemExit as done:
        # Typer and rich end the command with it, also when the reader of the output has exited.
        status = done.code
    sys.exit(_flushed(status))


def _run(arguments: list[str]) -> int:
    if arguments[:2] == ["run", "--"] and arguments[2:] and _COMPLETION not in os.environ:
        # Typer takes longer to import than all else that happens before the command starts.
        from llamatelemetry.cli.run import RunOptions, run_command

        return run_command(arguments[2:], RunOptions())
    from llamatelemetry.cli._app import app

    app()
    return 0


def _prepare_output() -> None:
    """Make both output streams usable: closed ones, and those of a locale without some characters."""
    if os.environ.get("COLUMNS") == "0":  # unknown: rich would print nothing
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `>&-` in a shell
            devnull = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until exit
            setattr(sys, name, devnull)
    # The encoding of the locale may lack characters of tables and file names.
    stdout: Any = sys.stdout
    if getattr(stdout, "errors", None) in {"strict", "surrogateescape"}:
        stdout.reconfigure(errors="replace")


def _report(message: str, status: int) -> int:
    with suppress(OSError):  # its reader has exited, or the disk is full
        sys.stderr.write(f"{message}\n")
    return status


def _flushed(status: Any) -> Any:
    """Write the buffered output. Return the status, or 1 if standard output cannot be written.

    The interpreter would print a traceback for this error when it exits, or exit with 120.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        is_reported = status or isinstance(error, BrokenPipeError)
        status = status or 1 if is_reported else _report(f"error: {error}", 1)
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return status


def _discard(stream: Any) -> None:
    """Discard the rest in the buffer of an output stream."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
