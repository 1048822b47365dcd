"""The end of `llamatelemetry run`: wait for the command, read the recorded telemetry, and show it."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from llamatelemetry.cli._run_outcome import Outcome
from llamatelemetry.cli._tables import print_summary
from llamatelemetry.cli._text import print_line
from llamatelemetry.local.joined_calls import first_end_without_engine_span
from llamatelemetry.local.launch import is_process_left, started_processes
from llamatelemetry.local.recording import Recording
from llamatelemetry.local.report import LivePage, page_beside, write_report
from llamatelemetry.local.store import Store, StoreError, StoreReader, StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from rich.console import Console

    from llamatelemetry.cli.run import StartedRun
    from llamatelemetry.local.receiver import Receiver
    from llamatelemetry.local.records import Run

_FAILURE: Final = 1
_SETTLE_S: Final = 2.0
# The batch span processor of OpenTelemetry sends every 5 seconds.
_ENGINE_DELAY_S: Final = 6.0
_LAST_SPANS: Final = 2000


def finish(started: StartedRun) -> int:
    """Wait for the command, stop recording, and show the outcome. Return the exit status."""
    console, path, options = started.console, started.path, started.options
    store, receiver = started.store, started.receiver
    page = _live_page(console, path, started.run) if options.live else None
    status = started.command.wait()
    is_shared = bool(options.port or options.grpc_port is not None)
    with suppress(KeyboardInterrupt):
        if is_shared or started.command.killed_by or is_process_left(started.processes):
            _settle(receiver)
        if is_shared:
            _wait_for_engine_spans(path)
    outcome = Outcome(started.arguments, status, killed_by=started.command.killed_by)
    with _keeping_exit_status(console, path):
        if page is not None:
            page.stop()
        receiver.stop()
        _end(store, status)
        store.close()
        recorded = _recorded(path, started.run)
        outcome.describe(recorded, started_processes(started.processes))
        outcome.missing += _lost(store, receiver)
        if any(receiver.received.values()) or options.output is not None:
            outcome.database = path
            outcome.report = _report(console, recorded, path) if options.report else None
        else:
            path.unlink(missing_ok=True)
        _conclude(console, outcome, as_json=options.as_json)
    return _FAILURE if options.fail_on_error and not status and outcome.errors else status


def _live_page(console: Console, path: Path, run: Run | None) -> LivePage | None:
    try:
        page = LivePage(path, run=run)
    except (OSError, ImportError, StoreError) as error:
        print_line(console, f"Cannot serve the live report: {error}", "yellow")
        return None
    print_line(console, f"Live report: {page.url}", "bold")
    return page


@contextmanager
def _keeping_exit_status(console: Console, path: Path) -> Generator[None]:
    """Let no failure after the command has exited change the exit status, not even Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print_line(console, f"Interrupted. The telemetry is in {path}", "yellow")
    except SystemExit:
        # rich raises it if the reader of standard error has exited.
        pass
    except (FileNotFoundError, StoreError) as error:
        print_line(console, f"error: The recorded telemetry is lost: {error}", "red")
    except Exception as error:
        print_line(console, f"error: Cannot read the recorded telemetry: {error}", "red")


def _end(store: Store, status: int) -> None:
    with suppress(StoreWriteError):  # the summary says what is lost
        store.end_run(status)


def _settle(receiver: Receiver) -> None:
    """Wait until no more telemetry arrives: workers may exit after the command."""
    deadline = time.monotonic() + _SETTLE_S
    before = None
    while time.monotonic() < deadline and (now := dict(receiver.received)) != before:
        before = now
        time.sleep(0.1)


def _wait_for_engine_spans(path: Path) -> None:
    """Wait until the spans of the last calls have arrived from their engines, which send in batches.

    An engine that has not sent the span of an earlier call after this time does not export spans.
    """
    deadline = time.monotonic() + _ENGINE_DELAY_S
    with suppress(OSError, StoreError), StoreReader(path) as reader:
        after = max(0, reader.last_row("spans") - _LAST_SPANS)
        while time.monotonic() < deadline:
            ended_ns = first_end_without_engine_span(reader.spans(after=after))
            if ended_ns is None or time.time_ns() > ended_ns + _ENGINE_DELAY_S * 1e9:
                return
            time.sleep(0.25)


def _recorded(path: Path, run: Run | None) -> Recording:
    """Return the telemetry since the start of the run, with its end."""
    with StoreReader(path) as reader:
        if run is not None:
            # Another `run` may have added one to the same file meanwhile.
            same = (each for each in reader.runs() if each.started_ns == run.started_ns)
            run = next(same, run)
        return Recording.of_store(reader, run)


def _lost(store: Store, receiver: Receiver) -> Generator[str]:
    if receiver.problem is not None:
        yield f"error: Telemetry is incomplete: {receiver.problem}"
    if store.pruned:
        yield f"Size limit reached: deleted the {store.pruned} oldest records."


def _report(console: Console, recorded: Recording, path: Path) -> Path | None:
    page = page_beside(path)
    try:
        write_report(recorded, page)
    except (OSError, ImportError, ValueError) as error:
        print_line(console, f"Cannot write the report: {error}", "yellow")
        return None
    return page


def _conclude(console: Console, outcome: Outcome, *, as_json: bool) -> None:
    """Print the outcome: as a table on standard error, or as the last line of standard output."""
    if as_json:
        # The last line of the command may have no line break.
        sys.stdout.write(f"\n{outcome.to_json()}\n")
        return
    if outcome.reason:
        print_line(console, outcome.reason, "yellow")
    else:
        print_summary(console, outcome.summary)
    for each in outcome.missing:
        print_line(console, each, "yellow")
    if outcome.database is not None:
        print_line(console, f"Saved to {outcome.database}", "dim")
    if outcome.report is not None:
        print_line(console, f"Report: {outcome.report}", "bold")
