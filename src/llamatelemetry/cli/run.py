"""`llamatelemetry run` and `llamatelemetry report`: record a command's calls locally."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from llamatelemetry._optional import MissingPackageError, require
from llamatelemetry.cli._run_outcome import Outcome
from llamatelemetry.cli._tables import print_summary
from llamatelemetry.cli._text import safe_text
from llamatelemetry.local.joined_calls import lacks_engine_spans
from llamatelemetry.local.launch import (
    Command,
    exit_status_of,
    started_processes,
    telemetry_environment,
)
from llamatelemetry.local.receiver import Receiver
from llamatelemetry.local.recording import RUNS, latest_run
from llamatelemetry.local.report import LivePage, Recording, read_recorded, write_report
from llamatelemetry.local.shown_command import shown_command
from llamatelemetry.local.store import Store, StoreError, StoreReader, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from llamatelemetry.local.records import Run

_FAILURE: Final = 1
_USAGE: Final = 2
_SETTLE_S: Final = 2.0
# The batch span processor of OpenTelemetry sends every 5 seconds.
_ENGINE_DELAY_S: Final = 6.0
_LAST_SPANS: Final = 2000


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
        _print(console, f"error: {error}", "red")
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
            _print(console, f"error: cannot run {arguments[0]}: {error.strerror}", "red")
            return exit_status_of(error)
        run = _begin(console, store, arguments)
        _start(console, receiver)
        page = _live_page(console, path, run) if options.live else None
        status = command.wait()
        with suppress(KeyboardInterrupt):
            _settle(receiver)
            if options.port or options.grpc_port is not None:
                _wait_for_engine_spans(path)
        outcome = Outcome(arguments, status, killed_by=command.killed_by)
        with _keeping_exit_status(console, path):
            if page is not None:
                page.stop()
            receiver.stop()
            _end(store, status)
            store.close()
            recorded = _recorded(path, run)
            outcome.describe(recorded, started_processes(Path(folder)))
            outcome.missing += _lost(store, receiver)
            if any(receiver.received.values()) or options.output is not None:
                outcome.database = path
                outcome.report = _report(console, recorded, path) if options.report else None
            else:
                path.unlink(missing_ok=True)
            _conclude(console, outcome, as_json=options.as_json)
    return _FAILURE if options.fail_on_error and not status and outcome.errors else status


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


def _begin(console: Console, store: Store, arguments: Sequence[str]) -> Run | None:
    try:
        return store.begin_run(shown_command(arguments))
    except StoreWriteError as error:
        _print(console, f"error: {error}", "red")
        return None


def _end(store: Store, status: int) -> None:
    with suppress(StoreWriteError):  # the summary says what is lost
        store.end_run(status)


def _start(console: Console, receiver: Receiver) -> None:
    try:
        receiver.start()
    except OSError as error:
        # The command is already running, and its telemetry over HTTP is received.
        _print(console, f"error: {error}", "red")


def _live_page(console: Console, path: Path, run: Run | None) -> LivePage | None:
    try:
        page = LivePage(path, run=run)
    except (OSError, ImportError, StoreError) as error:
        _print(console, f"Cannot serve the live report: {error}", "yellow")
        return None
    _print(console, f"Live report: {page.url}", "bold")
    return page


def _new_path() -> Path:
    started = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return RUNS / f"run-{started}-{os.getpid()}.db"


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


def _recorded(path: Path, run: Run | None) -> Recording:
    """Return the telemetry since the start of the run, with its end."""
    with StoreReader(path) as reader:
        newest = reader.runs()[-1] if run else None
        return Recording.of_store(reader, newest)


def _lost(store: Store, receiver: Receiver) -> Generator[str]:
    if receiver.problem is not None:
        yield f"error: Telemetry is incomplete: {receiver.problem}"
    if store.pruned:
        yield f"Size limit reached: deleted the {store.pruned} oldest records."


def _report(console: Console, recorded: Recording, path: Path) -> Path | None:
    page = path.with_suffix(".html")
    try:
        write_report(recorded, page)
    except (OSError, ImportError, ValueError) as error:
        _print(console, f"Cannot write the report: {error}", "yellow")
        return None
    return page


def _conclude(console: Console, outcome: Outcome, *, as_json: bool) -> None:
    """Print the outcome: as a table on standard error, or as the last line of standard output."""
    if as_json:
        sys.stdout.write(f"{outcome.to_json()}\n")
        return
    if outcome.reason:
        _print(console, outcome.reason, "yellow")
    else:
        print_summary(console, outcome.summary)
    for each in outcome.missing:
        _print(console, each, "yellow")
    if outcome.database is not None:
        _print(console, f"Saved to {outcome.database}", "dim")
    if outcome.report is not None:
        _print(console, f"Report: {outcome.report}", "bold")


def _print(console: Console, text: str, style: str) -> None:
    # The reader of the output may have exited, or the disk may be full. rich raises SystemExit for
    # a closed pipe.
    with suppress(OSError, SystemExit):
        sys.stdout.flush()
        console.print(safe_text(text, style, lines=True), soft_wrap=True)


def report_command(source: Path | None, output: Path | None) -> int:
    """Write the HTML report of recorded telemetry. Return the exit status: 0, or 1 on an error.

    Without a source it is the latest run.
    """
    console = Console(stderr=True, highlight=False)
    try:
        source = source or latest_run()
        page = output or (
            source / "report.html" if source.is_dir() else source.with_suffix(".html")
        )
        write_report(read_recorded(source), page)
    except (OSError, ImportError, StoreError, ValueError) as error:
        _print(console, f"error: {error}", "red")
        return _FAILURE
    Console(highlight=False).print(safe_text(str(page)), soft_wrap=True)
    return 0
