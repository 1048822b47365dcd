"""``llamatelemetry demo``: a real server, a plain OpenAI program, and what was seen of its calls."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from llamatelemetry._optional import MissingPackageError
from llamatelemetry.cli._demo_program import Target, run_program
from llamatelemetry.cli._table import print_calls, print_metrics
from llamatelemetry.llama.embedded import (
    EmbeddedOptions,
    EmbeddedServer,
    EmbeddedServerError,
    find_demo_model,
)
from llamatelemetry.local.calls import RecordedCall, calls_from_spans
from llamatelemetry.local.recording import read_metric_totals, read_spans

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

# What examples/openai_chat.py does: its last call is refused on purpose.
_CALLS = 10
# How a server of somebody else's says that it has no such endpoint.
_NOT_OFFERED = frozenset({404, 405, 501})
_INTERRUPTED = 130
_NEXT = "LLAMATELEMETRY_EXPORTER=file opentelemetry-instrument python your_program.py"


class _DemoError(Exception):
    """The demo cannot run here; the message is for the user."""


def run_demo(*, output: Path, model: Path | None = None, base_url: str | None = None) -> int:
    """Run the demo and print what it recorded.

    The telemetry goes to ``output`` as OTLP JSON lines. ``model`` is a GGUF file for the demo's
    own server; with ``base_url`` no server is started and that one is used. Returns the exit
    status: 0 when every call was recorded as expected, 1 when not, 130 after Ctrl-C.
    """
    console = Console(highlight=False)
    try:
        with _terminated_in_order(), _folder(output):
            return _run(console, output, model, base_url)
    except KeyboardInterrupt:
        console.print("Interrupted. Nothing is left running.")
        return _INTERRUPTED
    except (_DemoError, MissingPackageError, EmbeddedServerError, FileNotFoundError) as error:
        Console(stderr=True).print(Text(f"error: {error}", "red"), soft_wrap=True)
        return 1


def _run(console: Console, output: Path, model: Path | None, base_url: str | None) -> int:
    _require("openai")
    with _target(console, model, base_url) as target:
        _say(console, "$ opentelemetry-instrument python examples/openai_chat.py", "bold")
        status, pid = run_program(
            target, output.resolve(), lambda line: _say(console, f"  {line}", "dim")
        )
    traces, metrics = (_written(output, signal_, pid) for signal_ in ("traces", "metrics"))
    calls = calls_from_spans(read_spans(traces))
    if calls:
        print_calls(console, calls)
    if totals := read_metric_totals(metrics):
        print_metrics(console, totals)
    console.print()
    return _conclude(console, _problems(calls, status, target), [*traces, *metrics])


@contextmanager
def _folder(path: Path) -> Generator[None]:
    """Make a folder, and take it away again if nothing came of it."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        if is_new:  # what the program had already exported is half of a run
            shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                path.rmdir()


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError("The demo", module, ("llamatelemetry[demo]",))


@contextmanager
def _target(console: Console, model: Path | None, base_url: str | None) -> Generator[Target]:
    if base_url is not None:
        yield Target(base_url, is_ours=False)
        return
    _require("xllamacpp")
    model = model or find_demo_model()
    # Two slots, so that two of the program's four concurrent calls have to wait.
    options = EmbeddedOptions(
        model_path=model,
        alias=model.stem,
        parallel=2,
        embeddings=True,
        metrics=True,
        # A wheel that was built for another CPU dies of its first computation.
        warmup=True,
    )
    server = EmbeddedServer(options)
    try:
        _start(console, server, model)
        yield Target(f"{server.url}/v1", is_ours=True, model=model.stem)
        if crash := server.crash():
            raise crash
    finally:
        server.stop()


def _start(console: Console, server: EmbeddedServer, model: Path) -> None:
    began = time.monotonic()
    with console.status(Text(f"llama.cpp loads {model.name}")) as status:
        server.start(lambda line: status.update(Text(f"llama.cpp loads {model.name}  {line}")))
    took_s = time.monotonic() - began
    _say(console, f"llama.cpp serves {model.name} at {server.url}, ready after {took_s:.1f} s")


def _written(output: Path, name: str, pid: int) -> list[Path]:
    """The file of a signal and process, where it was written."""
    return [path for path in (output / f"{name}-{pid}.jsonl",) if path.exists()]


def _problems(calls: Sequence[RecordedCall], status: int, target: Target) -> Iterator[str]:
    """What is not as it should be, each in a sentence."""
    if status != 0:
        yield f"The program ended with exit status {status}."
    if len(calls) != _CALLS:
        yield f"{len(calls)} calls were recorded, not {_CALLS}."
    for number, call in enumerate(calls, start=1):
        on_purpose = number == _CALLS
        not_offered = not target.is_ours and call.http_status in _NOT_OFFERED
        if call.error and not on_purpose and not not_offered:
            yield f"Call {number} failed: {call.error}."
        if on_purpose and target.is_ours and not call.error:
            yield f"Call {number} was refused, but is not recorded as failed."


def _conclude(console: Console, problems: Iterator[str], files: Sequence[Path]) -> int:
    found = list(problems)
    for problem in found:
        _say(console, problem, "bold red")
    if not found:
        _say(
            console, f"All {_CALLS} calls were recorded; the last is a mistake on purpose.", "green"
        )
    for path in files:
        _say(console, f"OTLP JSON lines: {path}")
    if found:
        _say(console, "Next: llamatelemetry doctor", "bold")
        return 1
    _say(console, f"Next, your own program: {_NEXT}", "bold")
    return 0


def _say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: paths and answers may look like markup, and are not to be wrapped."""
    console.print(Text(text, style), soft_wrap=True)


@contextmanager
def _terminated_in_order() -> Generator[None]:
    """Turn SIGTERM into an exception, so that it ends our children as Ctrl-C does."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
