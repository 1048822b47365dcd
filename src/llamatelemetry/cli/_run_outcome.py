"""What `llamatelemetry run` says at its end: the summary, what may be missing, and as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.calls import Summary, summarize
from llamatelemetry.local.launch import EXPORT_DELAY_MS
from llamatelemetry.local.shown_command import shown_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llamatelemetry.local.launch import StartedProcess
    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.records import SpanRecord

_DOCTOR: Final = "Run `llamatelemetry doctor` with the same Python as the command."
# Options after which Python does not import the start-up module: isolated, without the environment,
# without `site`.
_ISOLATING: Final = "IES"


@dataclass(slots=True)
class Outcome:
    """A finished command, and what was recorded of it.

    Attributes:
        killed_by: Name of the signal that killed the command, else empty.
        reason: Why there is no call, in one or two sentences; empty if there are calls.
        missing: What the recording may lack, a sentence each.
    """

    command: Sequence[str]
    exit_status: int
    killed_by: str = ""
    summary: Summary = field(default_factory=Summary)
    reason: str = ""
    missing: list[str] = field(default_factory=list[str])
    database: Path | None = None
    report: Path | None = None

    def describe(self, recorded: Recording, processes: Sequence[StartedProcess]) -> None:
        """Summarize what was recorded, and say what may be missing and why."""
        self.summary = summarize(recorded.spans, recorded.points)
        self.missing = list(_missing_parts(recorded.spans, self.killed_by))
        if not self.summary.calls:
            spans = len(recorded.spans)
            self.reason = _reason_without_calls(spans, self.command, self.exit_status, processes)

    @property
    def errors(self) -> int:
        """Number of failed calls."""
        return sum(row.errors for row in self.summary.rows)

    def to_json(self) -> str:
        """Return the outcome as one line of JSON. Times are in milliseconds."""
        found: dict[str, Any] = {
            "command": shown_command(self.command),
            "exit_status": self.exit_status,
            "calls": self.summary.calls,
            "errors": self.errors,
            "errors_by_type": dict(self.summary.errors),
            "spans": self.summary.spans,
            "processes": self.summary.processes,
            "by_operation_and_model": [asdict(row) for row in self.summary.rows],
            "reason": self.reason,
            "missing": self.missing,
            "database": self.database and str(self.database),
            "report": self.report and str(self.report),
        }
        return json.dumps(found)


def _missing_parts(spans: Sequence[SpanRecord], killed_by: str) -> Iterator[str]:
    """Yield what the recording may lack."""
    if killed_by:
        yield (
            f"The command was killed by {killed_by}: calls that were open, and spans of the last "
            f"{EXPORT_DELAY_MS} ms, may be missing."
        )
    orphans = _orphans(spans)
    if orphans:
        subject = "1 span has" if orphans == 1 else f"{orphans} spans have"
        yield (
            f"{subject} a parent that was not received: it was still open when its process ended, "
            "or is recorded elsewhere."
        )


def _orphans(spans: Iterable[SpanRecord]) -> int:
    spans = list(spans)
    known = {(span.trace_id, span.span_id) for span in spans}
    return sum(
        bool(span.parent_span_id) and (span.trace_id, span.parent_span_id) not in known
        for span in spans
    )


def _reason_without_calls(
    spans: int, arguments: Sequence[str], status: int, processes: Sequence[StartedProcess]
) -> str:
    """Return why no call was recorded, and what to do."""
    if spans:
        return f"No LLM call recorded; received {spans} other spans. {_DOCTOR}"
    failed = [each for each in processes if each.error]
    if any(not each.error for each in processes):
        if status:
            return (
                f"No telemetry received: the command exited with status {status} before any call "
                "ended."
            )
        return (
            "No telemetry received: the command made no call through a library that is "
            f"instrumented. {_DOCTOR}"
        )
    if failed:
        executable, error = failed[0]
        return (
            f"No telemetry received: the command used another interpreter, {executable}, which "
            f"cannot load llamatelemetry ({error}). Install it there, or start the command with "
            f"{sys.executable}."
        )
    return f"No telemetry received: {_without_python(arguments)}"


def _without_python(arguments: Sequence[str]) -> str:
    """Return why no Python process with the start-up module was started."""
    interpreter, *options = _interpreter_of(arguments)
    name = Path(interpreter).name
    if not name.startswith(("python", "pypy")):
        return (
            f"{Path(arguments[0]).name} is not a Python program, and started none that reads "
            "PYTHONPATH (python -I, -E and -S do not). Other programs can send OTLP to the port of "
            "--port."
        )
    for option in options:
        if not option.startswith("-") or option in {"-c", "-m", "-"}:
            break
        if not option.startswith(("--", "-W", "-X")) and set(option) & set(_ISOLATING):
            return (
                f"{name} ran with {option}, which ignores the start-up module of `run`. Leave it "
                "out, or call llamatelemetry.init() in the program."
            )
    return f"{name} did not import the start-up module of `run`. {_DOCTOR}"


def _interpreter_of(arguments: Sequence[str]) -> list[str]:
    """Return the command, or that of the first line of a script."""
    path = shutil.which(arguments[0])
    line = b""
    # A program need not be readable.
    with suppress(OSError), Path(path or "").open("rb") as file:
        line = file.readline(500)
    if line.startswith(b"#!"):
        words = line[2:].decode(errors="replace").split()
        words = words[1:] if words and Path(words[0]).name == "env" else words
        return [word for word in words if word != "-S"] or list(arguments)
    return list(arguments)
