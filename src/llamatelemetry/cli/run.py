"""`llamatelemetry run`: start a command that sends its telemetry to this process.

It imports only what the start needs. The receiver and `_run_end` are imported while the command
runs. Until then, the connections of the command wait in the queue of the socket.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamatelemetry._optional import MissingPackageError, require
from llamatelemetry._terminal import printable
from llamatelemetry.local.launch import (
    Command,
    address_of,
    exit_status_of,
    listen,
    telemetry_environment,
)
from llamatelemetry.local.store import RUNS, Store, StoreError, StoreWriteError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from rich.console import Console

    from llamatelemetry.local.receiver import Receiver
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
    path = options.output or _new_path()
    try:
        store, listener = _open(path, options)
    except (OSError, StoreError, MissingPackageError) as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return _USAGE
    with tempfile.TemporaryDirectory(
        prefix="llamatelemetry-", ignore_cleanup_errors=True
    ) as folder:
        environment = telemetry_environment(os.environ, address_of(listener), Path(folder))
        try:
            command = Command(arguments, environment)
        except OSError as error:
            listener.close()
            store.close()
            if options.output is None:
                path.unlink()
            message = f"cannot run {arguments[0]}: {error.strerror}"
            sys.stderr.write(f"error: {printable(message)}\n")
            return exit_status_of(error)
        from rich.console import Console

        from llamatelemetry.local.receiver import Receiver

        console = Console(stderr=True, highlight=False)
        run = _begin(console, store, arguments)
        receiver = Receiver(store, listener=listener, grpc_port=options.grpc_port)
        _start(console, receiver)
        started = StartedRun(
            arguments, options, console, path, store, receiver, run, command, Path(folder)
        )
        from llamatelemetry.cli._run_end import finish

        return finish(started)


def _open(path: Path, options: RunOptions) -> tuple[Store, socket.socket]:
    # These are imported later, when an error would be too late.
    require("The command line", "rich", "llamatelemetry")
    require("The command line", "opentelemetry.proto", "llamatelemetry")
    if options.grpc_port is not None:
        require("Receiving OTLP over gRPC", "grpc", "llamatelemetry")
    store = Store(path)
    try:
        return store, listen(options.port)
    except OSError:
        store.close()
        if options.output is None:
            path.unlink()
        raise


def _begin(console: Console, store: Store, arguments: Sequence[str]) -> Run | None:
    from llamatelemetry.cli._text import print_line
    from llamatelemetry.local.shown_command import shown_command

    try:
        return store.begin_run(shown_command(arguments))
    except StoreWriteError as error:
        print_line(console, f"error: {error}", "red")
        return None


def _start(console: Console, receiver: Receiver) -> None:
    from llamatelemetry.cli._text import print_line

    try:
        receiver.start()
    except OSError as error:
        # The command is already running, and its telemetry over HTTP is received.
        print_line(console, f"error: {error}", "red")


def _new_path() -> Path:
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return RUNS / f"run-{started}-{os.getpid()}.db"
