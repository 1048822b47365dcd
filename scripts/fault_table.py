"""Run a program under each fault, with and without llamatelemetry, and write the table of results.

    scripts/fault_table.py                 all faults, and update docs/operate/reliability.md
    scripts/fault_table.py dns absent      these faults, without the page
    scripts/fault_table.py --list          the names of all faults

Exits with 1 and leaves the page as it is if the application saw something else than without
llamatelemetry, or if an exit, `flush()` or `shutdown()` took longer than its time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from _fault_servers import (
    CannotRunError,
    Server,
    absent,
    accepting,
    build_clock,
    dripping,
    llama_cpp,
    no_such_host,
    refusing,
    resetting,
    scripted,
    slow,
    unresolved,
)
from _page_tables import write_tables

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.otlp_receiver import Received  # noqa: E402

PAGE = ROOT / "docs/operate/reliability.md"
PROGRAM = str(Path(__file__).with_name("_fault_program.py"))
LIMIT_S = 2.0
# Of a machine that is busy with other work.
SLACK_S = 5.0
_LOSS = re.compile(
    r"^(?:error: )?(Lost telemetry \([^)]*\)|Dropped \d+ [a-z ]+|Cannot write telemetry"
    "|Telemetry is incomplete)(?: because|:| to )",
    re.MULTILINE,
)


@dataclass
class Outcome:
    """Result of one run of the program.

    Attributes:
        seen: Results and exceptions in the application, with counts.
        extra: Other figures that it printed, such as the seconds of `flush`.
        status: Exit status.
        exit_s: Time from the last output to the end of the process, in seconds.
        losses: Lines about lost telemetry.
        spans: Spans of calls in the receiver or the file.
        longest_s: Duration of the longest received span in seconds, without its sign.
    """

    seen: Counter[str] = field(default_factory=Counter[str])
    extra: dict[str, float] = field(default_factory=dict[str, float])
    status: int = 0
    exit_s: float = 0.0
    losses: list[str] = field(default_factory=list[str])
    spans: int = 0
    longest_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One fault, and what the program does while it happens.

    Attributes:
        title: The fault, for the table.
        situation: Function of the program.
        server: The model server.
        receiver: The OTLP receiver.
        variables: Environment of the program.
        max_file_bytes: Limit of the size of files that the program writes.
        by_file: Whether the program exports to files.
        run: Whether the program is run by `llamatelemetry run`.
        has_limit: Whether a run with `flush()` and `shutdown()` is timed too.
        prelude: Code that runs before the program.
    """

    title: str
    situation: str = "calls"
    server: Callable[[], AbstractContextManager[Server]] = scripted
    receiver: Callable[[], AbstractContextManager[Received]] = accepting
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    max_file_bytes: int | None = None
    by_file: bool = False
    run: bool = False
    has_limit: bool = False
    prelude: str = ""


FAULTS = {
    "absent": Fault("Collector absent", receiver=absent, has_limit=True),
    "slow": Fault("Collector responds after 2 seconds", receiver=slow(2), has_limit=True),
    "hanging": Fault("Collector never responds", receiver=slow(60), has_limit=True),
    "503": Fault("Collector refuses with 503", receiver=refusing(503), has_limit=True),
    "429": Fault("Collector refuses with 429", receiver=refusing(429), has_limit=True),
    "400": Fault("Collector rejects with 400", receiver=refusing(400), has_limit=True),
    "reset": Fault("Collector resets connections", receiver=resetting, has_limit=True),
    "queue": Fault(
        "Export queue full (16 spans, collector slow)",
        receiver=slow(2),
        variables={"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"},
        has_limit=True,
    ),
    "dns": Fault("Name of the collector unknown to DNS", receiver=unresolved, has_limit=True),
    "server-dns": Fault("Name of the server unknown to DNS", server=no_such_host),
    "killed": Fault(
        "Server killed during a stream",
        "interrupted_server",
        llama_cpp,
        variables={"SIGNAL": str(int(signal.SIGKILL))},
    ),
    "frozen": Fault(
        "Server frozen during a stream (client timeout 3 s)",
        "interrupted_server",
        llama_cpp,
        variables={"SIGNAL": str(int(signal.SIGSTOP)), "TIMEOUT": "3"},
    ),
    "dripping": Fault("Server sends single bytes", server=dripping),
    "disk": Fault("Disk full, exporter `file`", by_file=True, max_file_bytes=8192),
    "run-disk": Fault("Disk full, `llamatelemetry run`", run=True, max_file_bytes=65536),
    "clock": Fault("Clock set by an hour during a stream", "clock_step"),
    "alarm": Fault("Signal handler raises during calls", "signal_exception"),
    "sigterm": Fault("SIGTERM during a stream", "terminated"),
    "end": Fault("Program ends during two streams", "ends_in_stream"),
    "fork": Fault("Fork during a stream", "fork_in_call"),
    "threads": Fault("Threads make calls after the main thread ended", "threads_at_exit"),
    "recursion": Fault("Recursion limit reached in a call", "recursion_limit"),
    "many": Fault(
        "10,000 streams at the same time",
        "many_streams",
        variables={
            "CONCURRENT": os.environ.get("CONCURRENT", "10000"),
            "OTEL_BSP_MAX_QUEUE_SIZE": "65536",
        },
    ),
    "closed-loop": Fault("Event loop closed during 10 streams", "closed_loop"),
    "nested": Fault("Nested event loops (nest_asyncio)", "nested_loops"),
    "uvloop": Fault("uvloop", "uvloop"),
    "trio": Fault("trio", "trio"),
    "gevent": Fault(
        "gevent",
        "greenlets",
        variables={"GREEN": "gevent"},
        prelude="import gevent.monkey; gevent.monkey.patch_all()",
    ),
    "eventlet": Fault(
        "eventlet",
        "greenlets",
        variables={"GREEN": "eventlet"},
        # Where trio is installed, httpx2 imports it, which fails with eventlet's sockets.
        prelude="import sys; sys.modules['trio'] = None; import eventlet; eventlet.monkey_patch()",
    ),
}


def run(fault: Fault, *, recorded: bool, limit_s: float | None = None) -> Outcome:
    """Run the program once under a fault."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fault.server() as server,
        fault.receiver() as received,
    ):
        environment = _environment(fault, server, received, Path(folder))
        if recorded:
            environment["RECORDED"] = "1"
        if limit_s is not None:
            environment["LIMIT_S"] = str(limit_s)
        outcome = _run_program(_command(fault, server, folder, recorded), environment, fault)
        if fault.by_file or fault.run:
            outcome.spans = _stored_spans(Path(folder))
        else:
            outcome.spans = sum(name.startswith("chat ") for name in received.spans())
            outcome.longest_s = _longest_s(received)
        return outcome


def _environment(fault: Fault, server: Server, received: Received, folder: Path) -> dict[str, str]:
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
        "LLAMATELEMETRY_EXPORT_PATH": str(folder),
        "SERVER_PID": str(server.pid),
        "TIMEOUT": "60",
        **fault.variables,
    }
    if fault.by_file:
        environment["LLAMATELEMETRY_EXPORTER"] = "file"
    if fault.situation == "clock_step":
        environment["LD_PRELOAD"] = str(build_clock(folder))
    return environment


def _command(fault: Fault, server: Server, folder: str, recorded: bool) -> list[str]:
    arguments = [fault.situation, server.url]
    command = [sys.executable, PROGRAM, *arguments]
    if fault.prelude:
        code = f"{fault.prelude}; import runpy, sys; sys.argv[0] = {PROGRAM!r}; "
        code += f"runpy.run_path({PROGRAM!r}, run_name='__main__')"
        command = [sys.executable, "-c", code, *arguments]
    if fault.run and recorded:
        runner = [sys.executable, "-m", "llamatelemetry.cli", "run"]
        command = [*runner, "--output", f"{folder}/telemetry.db", "--", *command]
    return command


def _run_program(command: list[str], environment: dict[str, str], fault: Fault) -> Outcome:
    def limit_files() -> None:
        if fault.max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.max_file_bytes,) * 2)

    outcome = Outcome()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=limit_files,  # noqa: PLW1509 - the only way; no threads hold locks here
        ) as process,
    ):
        last_output = time.monotonic()
        try:
            for line in process.stdout or ():
                last_output = time.monotonic()
                _add_line(outcome, line)
            outcome.status = process.wait(120)
        finally:
            process.kill()
        outcome.exit_s = time.monotonic() - last_output
        errors.seek(0)
        text = errors.read()
    outcome.losses = _LOSS.findall(text)
    if os.environ.get("VERBOSE"):
        print(text, file=sys.stderr)
    return outcome


def _add_line(outcome: Outcome, line: str) -> None:
    if not line.startswith("{"):
        return
    found = json.loads(line)
    if all(isinstance(value, int) for value in found.values()) and "frames" not in found:
        outcome.seen.update(found)
    else:
        outcome.extra |= found


def _longest_s(received: Received) -> float:
    return max(
        (
            abs(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
            for message in received.messages["traces"]
            for group in message.resource_spans  # type: ignore[attr-defined]
            for scope in group.scope_spans
            for span in scope.spans
        ),
        default=0.0,
    )


def _stored_spans(folder: Path) -> int:
    database = folder / "telemetry.db"
    if database.exists():
        from llamatelemetry.local.store import StoreReader

        with contextlib.suppress(Exception), StoreReader(database) as reader:
            return sum(each.name.startswith("chat ") for each in reader.spans())
        return 0
    count = 0
    for file in folder.glob("traces-*.jsonl"):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # A line that the full disk has cut.
                groups = json.loads(line)["resourceSpans"]
                scopes = (scope for group in groups for scope in group["scopeSpans"])
                spans = (span for scope in scopes for span in scope["spans"])
                count += sum(span["name"].startswith("chat ") for span in spans)
    return count


@dataclass
class Row:
    """A row of the table, and what contradicts the promises."""

    cells: tuple[str, str, str, str]
    problems: list[str] = field(default_factory=list[str])


def examine(name: str, fault: Fault, *, timed: bool = True) -> Row:
    """Run the program under a fault, without llamatelemetry and with it."""
    try:
        without = run(fault, recorded=False)
    except CannotRunError as reason:
        return Row((fault.title, f"not run: {reason}", "", ""))
    recorded = run(fault, recorded=True)
    problems: list[str] = []
    if (without.seen, without.status) != (recorded.seen, recorded.status):
        problems.append(
            f"{name}: without llamatelemetry {_text(without.seen)} ({without.status}), "
            f"with it {_text(recorded.seen)} ({recorded.status})"
        )
    if not without.seen:
        problems.append(f"{name}: the program failed")
    if timed and recorded.exit_s > 5 + SLACK_S:
        problems.append(f"{name}: the process took {recorded.exit_s:.1f} s to end")
    if recorded.longest_s > 600:
        problems.append(f"{name}: a span has a duration of {recorded.longest_s:,.0f} s")
    if timed and fault.has_limit:
        ended = run(fault, recorded=True, limit_s=LIMIT_S)
        problems += [
            f"{name}: {what}({LIMIT_S:g}) took {seconds:.1f} s"
            for what, seconds in ended.extra.items()
            if seconds > LIMIT_S + SLACK_S
        ]
    seen = _text(recorded.seen)
    if "frames" in recorded.extra:
        frames = (int(each.extra["frames"]) for each in (recorded, without))
        seen += "; a call fails with {} frames left, without llamatelemetry with {}".format(*frames)
    lost = "; ".join(dict.fromkeys(recorded.losses)) or "nothing"
    return Row((fault.title, seen, f"{recorded.spans} spans of calls", lost), problems)


def _text(seen: Counter[str]) -> str:
    return ", ".join(f"{count:,} × `{what}`" for what, count in sorted(seen.items()))  # noqa: RUF001


def table(rows: list[Row]) -> str:
    """Return the table."""
    header = ("Fault", "What the application saw", "Recorded", "Lost")
    lines = [header, ("---",) * 4, *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run the faults, print what contradicts the promises, and update the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    parser.add_argument("--untimed", action="store_true", help="do not check time limits")
    parser.add_argument("--list", action="store_true", help="only print the names of the faults")
    options = parser.parse_args()
    if options.list:
        print(*FAULTS)
        return 0
    names = options.faults
    rows: list[Row] = []
    for name in names or FAULTS:
        rows.append(examine(name, FAULTS[name], timed=not options.untimed))
        print(f"| {' | '.join(rows[-1].cells)} |", *rows[-1].problems, sep="\n", flush=True)
    if any(row.problems for row in rows):
        return 1
    if not names:
        write_tables(PAGE, "scripts/fault_table.py", {"faults": lambda: table(rows)}, [])
    print("the application saw the same with and without llamatelemetry")
    return 0


if __name__ == "__main__":
    sys.exit(main())
