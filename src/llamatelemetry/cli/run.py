"""``llamatelemetry run -- CMD``: a command, with everything it asks of models seen."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from llamatelemetry.cli._summary_table import print_summary
from llamatelemetry.local.launch import Command, exit_status_of, telemetry_environment
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.store import Store, StoreError, StoreReader
from llamatelemetry.local.summary import Summary, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE: Final = 2
_SETTLE_S: Final = 2.0


def run_command(
    arguments: Sequence[str],
    *,
    output: Path | None = None,
    port: int = 0,
    grpc_port: int | None = None,
) -> int:
    """Run a command, keep its telemetry, and print what it came to on standard error.

    Args:
        arguments: the command.
        output: of the store; a file in ``llamatelemetry-data`` named after the time when ``None``.
        port: where OTLP over HTTP is received; 0 picks a free one.
        grpc_port: where it is received over gRPC, if anywhere.

    Returns:
        The exit status of the command; 126 or 127, as of a shell, when it cannot be started;
        2 when the store or the ports are not to be had.
    """
    console = Console(stderr=True, highlight=False)
    path = output or _new_path()
    try:
        store = Store(path)
        receiver = Receiver(store, port=port, grpc_port=grpc_port)
    except (OSError, StoreError) as error:
        return _refused(console, error)
    try:
        command = Command(arguments, telemetry_environment(os.environ, receiver.url))
    except OSError as error:
        receiver.stop()
        store.close()
        if output is None:
            path.unlink()
        _say(console, f"error: cannot run {arguments[0]}: {error.strerror}", "red")
        return exit_status_of(error)
    try:
        receiver.start()
    except (OSError, ImportError) as error:
        # The command runs: it must not suffer from what we cannot do.
        _say(console, f"error: {error}", "red")
    status = command.wait()
    _settle(receiver)
    receiver.stop()
    store.close()
    if any(receiver.received.values()) or output is not None:
        _conclude(console, path, store, receiver)
    else:
        path.unlink()
        print_summary(console, Summary())
    return status


def _new_path() -> Path:
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("llamatelemetry-data", f"run-{started}-{os.getpid()}.db")


def _settle(receiver: Receiver) -> None:
    """Wait while something still comes in: a worker may end after the command that started it."""
    deadline = time.monotonic() + _SETTLE_S
    before = None
    while time.monotonic() < deadline and (now := dict(receiver.received)) != before:
        before = now
        time.sleep(0.1)


def _conclude(console: Console, path: Path, store: Store, receiver: Receiver) -> None:
    with StoreReader(path) as reader:
        summary = summarise(reader.spans(), reader.points())
    print_summary(console, summary)
    if receiver.problem is not None:
        _say(console, f"error: not everything was kept: {receiver.problem}", "red")
    if store.pruned:
        _say(console, f"The store was full: its oldest {store.pruned} records made way.", "yellow")
    _say(console, f"Kept in {path}", "dim")


def _refused(console: Console, error: Exception) -> int:
    _say(console, f"error: {error}", "red")
    return _USAGE


def _say(console: Console, text: str, style: str) -> None:
    sys.stdout.flush()
    console.print(Text(text, style), soft_wrap=True)
