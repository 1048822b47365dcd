"""`llamatelemetry run` and `llamatelemetry report`: record a command's calls locally."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from llamatelemetry._optional import MissingPackageError, require
from llamatelemetry.cli._tables import print_summary
from llamatelemetry.cli._text import safe_text
from llamatelemetry.local.calls import Summary, summarize
from llamatelemetry.local.joined_calls import lacks_engine_spans
from llamatelemetry.local.launch import Command, exit_status_of, telemetry_environment
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.report import LivePage, read_recorded, write_report
from llamatelemetry.local.store import Store, StoreError, StoreReader

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_USAGE: Final = 2
_SETTLE_S: Final = 2.0
# The batch span processor of OpenTelemetry sends every 5 seconds.
_ENGINE_DELAY_S: Final = 6.0
_LAST_SPANS: Final = 2000


def run_command(
    arguments: Sequence[str],
    *,
    output: Path | None = None,
    port: int = 0,
    grpc_port: int | None = None,
    live: bool = False,
    report: bool = True,
) -> int:
    """Run a command, save its telemetry, and print a summary on standard error.

    Returns:
        The exit status of the command; 126 or 127, as a shell does, if it cannot be started;
        2 if the database, a port or grpcio is not available.
    """
    console = Console(stderr=True, highlight=False)
    path = output or _new_path()
    try:
        if grpc_port is not None:
            require("Receiving OTLP over gRPC", "grpc", "llamatelemetry")
        store = Store(path)
        try:
            receiver = Receiver(store, port=port, grpc_port=grpc_port)
        except OSError:
            store.close()
            if output is None:
                path.unlink()
            raise
    except (OSError, StoreError, MissingPackageError) as error:
        _print(console, f"error: {error}", "red")
        return _USAGE
    try:
        command = Command(arguments, telemetry_environment(os.environ, receiver.url))
    except OSError as error:
        receiver.stop()
        store.close()
        if output is None:
            path.unlink()
        _print(console, f"error: cannot run {arguments[0]}: {error.strerror}", "red")
        return exit_status_of(error)
    _start(console, receiver)
    page = _live_page(console, path) if live else None
    status = command.wait()
    with suppress(KeyboardInterrupt):
        _settle(receiver)
        if port or grpc_port is not None:
            _wait_for_engine_spans(path)
    with _keeping_exit_status(console, path):
        if page is not None:
            page.stop()
        receiver.stop()
        store.close()
        if any(receiver.received.values()) or output is not None:
            _conclude(console, path, store, receiver, report=report)
        else:
            _discard(console, path)
    return status


@contextmanager
def _keeping_exit_status(console: Console, path: Path) -> Generator[None]:
    """Let no failure after the command has exited change the exit status, not even Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        _print(console, f"Interrupted. The telemetry is in {path}", "yellow")
    except SystemExit:
        # rich raises it if the reader of standard error has exited.
        pass
    except (FileNotFoundError, StoreError) as error:
        _print(console, f"error: The recorded telemetry is lost: {error}", "red")
    except Exception as error:
        _print(console, f"error: Cannot read the recorded telemetry: {error}", "red")


def _start(console: Console, receiver: Receiver) -> None:
    try:
        receiver.start()
    except OSError as error:
        # The command is already running, and its telemetry over HTTP is received.
        _print(console, f"error: {error}", "red")


def _discard(console: Console, path: Path) -> None:
    path.unlink(missing_ok=True)
    print_summary(console, Summary())


def _live_page(console: Console, path: Path) -> LivePage | None:
    try:
        page = LivePage(path)
    except (OSError, ImportError, StoreError) as error:
        _print(console, f"Cannot serve the live report: {error}", "yellow")
        return None
    _print(console, f"Live report: {page.url}", "bold")
    return page


def _report(console: Console, path: Path) -> None:
    page = path.with_suffix(".html")
    try:
        write_report(read_recorded(path), page)
    except (OSError, ImportError, StoreError, ValueError) as error:
        _print(console, f"Cannot write the report: {error}", "yellow")
    else:
        _print(console, f"Report: {page}", "bold")


def _new_path() -> Path:
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("llamatelemetry-data", f"run-{started}-{os.getpid()}.db")


def _settle(receiver: Receiver) -> None:
    """Wait until no more telemetry arrives: workers may exit after the command."""
    deadline = time.monotonic() + _SETTLE_S
    before = None
    while time.monotonic() < deadline and (now := dict(receiver.received)) != before:
        before = now
        time.sleep(0.1)


def _wait_for_engine_spans(path: Path) -> None:
    """Wait until the spans of the last calls have arrived from their engines, which send in batches."""
    deadline = time.monotonic() + _ENGINE_DELAY_S
    with suppress(OSError, StoreError), StoreReader(path) as reader:
        after = max(0, reader.last_row("spans") - _LAST_SPANS)
        while lacks_engine_spans(reader.spans(after=after)) and time.monotonic() < deadline:
            time.sleep(0.25)


def _conclude(
    console: Console, path: Path, store: Store, receiver: Receiver, *, report: bool
) -> None:
    with StoreReader(path) as reader:
        summary = summarize(reader.spans(), reader.points())
    print_summary(console, summary)
    if receiver.problem is not None:
        _print(console, f"error: Telemetry is incomplete: {receiver.problem}", "red")
    if store.pruned:
        _print(console, f"Size limit reached: deleted the {store.pruned} oldest records.", "yellow")
    _print(console, f"Saved to {path}", "dim")
    if report:
        _report(console, path)


def _print(console: Console, text: str, style: str) -> None:
    # The reader of the output may have exited, or the disk may be full. rich raises SystemExit for
    # a closed pipe.
    with suppress(OSError, SystemExit):
        sys.stdout.flush()
        console.print(safe_text(text, style, lines=True), soft_wrap=True)


def report_command(source: Path, output: Path | None) -> int:
    """Write the HTML report of recorded telemetry. Return the exit status: 0, or 1 on an error."""
    console = Console(stderr=True, highlight=False)
    page = output or (source / "report.html" if source.is_dir() else source.with_suffix(".html"))
    try:
        write_report(read_recorded(source), page)
    except (OSError, ImportError, StoreError, ValueError) as error:
        _print(console, f"error: {error}", "red")
        return 1
    Console(highlight=False).print(safe_text(str(page)), soft_wrap=True)
    return 0
