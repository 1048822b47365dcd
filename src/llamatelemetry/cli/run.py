"""`llamatelemetry run`: start a command that sends its telemetry to this process.

It imports only what the start needs. `_run_end` has the rest, and is imported while the command
runs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from llamatelemetry._optional import MissingPackageError, require
from llamatelemetry.cli._text import print_line
from llamatelemetry.local.launch import Command, exit_status_of, telemetry_environment
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.shown_command import shown_command
from llamatelemetry.local.store import RUNS, Store, StoreError, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.local.records import Run

_USAGE: Final = 2


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of `llamatelemetry run`; `output` is the database, if it was named."""

    output: Path | None = None
    port: int = 0
    grpc_port: int | None = None
    live: bool = False
    report: bool = True
    as_json: bool = False
    fail_on_error: bool = False


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A command that runs, and what records it.

    Attributes:
        path: The database.
        run: Its entry in the database; `None` if it could not be written.
        processes: Directory in which each Python process leaves a file.
    """

    arguments: Sequence[str]
    options: RunOptions
    console: Console
    path: Path
    store: Store
    receiver: Receiver
    run: Run | None
    command: Command
    processes: Path


def run_command(arguments: Sequence[str], options: RunOptions) -> int:
    """Run a command, save its telemetry, and print a summary on standard error.

    Returns:
        The exit status of the command; 126 or 127, as a shell does, if it cannot be started;
        2 if the database, a port or grpcio is not available; with `fail_on_error`, 1 instead of 0
        if a call failed.
    """
    console = Console(stderr=True, highlight=False)
    path = options.output or _new_path()
    try:
        store, receiver = _open(path, options)
    except (OSError, StoreError, MissingPackageError) as error:
        print_line(console, f"error: {error}", "red")
        return _USAGE
    with tempfile.TemporaryDirectory(
        prefix="llamatelemetry-", ignore_cleanup_errors=True
    ) as folder:
        try:
            command = Command(
                arguments, telemetry_environment(os.environ, receiver.url, Path(folder))
            )
        except OSError as error:
            receiver.stop()
            store.close()
            if options.output is None:
                path.unlink()
            print_line(console, f"error: cannot run {arguments[0]}: {error.strerror}", "red")
            return exit_status_of(error)
        run = _begin(console, store, arguments)
        _start(console, receiver)
        started = StartedRun(
            arguments, options, console, path, store, receiver, run, command, Path(folder)
        )
        # Imported while the command runs, because the import takes longer than the start.
        from llamatelemetry.cli._run_end import finish

        return finish(started)


def _open(path: Path, options: RunOptions) -> tuple[Store, Receiver]:
    if options.grpc_port is not None:
        require("Receiving OTLP over gRPC", "grpc", "llamatelemetry")
    store = Store(path)
    try:
        return store, Receiver(store, port=options.port, grpc_port=options.grpc_port)
    except OSError:
        store.close()
        if options.output is None:
            path.unlink()
        raise


def _begin(console: Console, store: Store, arguments: Sequence[str]) -> Run | None:
    try:
        return store.begin_run(shown_command(arguments))
    except StoreWriteError as error:
        print_line(console, f"error: {error}", "red")
        return None


def _start(console: Console, receiver: Receiver) -> None:
    try:
        receiver.start()
    except OSError as error:
        # The command is already running, and its telemetry over HTTP is received.
        print_line(console, f"error: {error}", "red")


def _new_path() -> Path:
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return RUNS / f"run-{started}-{os.getpid()}.db"
