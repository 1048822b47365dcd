"""`llamatelemetry demo`: run an example program against a real server and print its calls."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from llamatelemetry._optional import MissingPackageError, require
from llamatelemetry._private_files import make_private_directory
from llamatelemetry._terminal import printable
from llamatelemetry.cli._demo_program import DemoError, DemoServer, find_program, run_program
from llamatelemetry.cli._demo_vllm import vllm_server
from llamatelemetry.cli._tables import print_calls, print_metrics
from llamatelemetry.cli._text import safe_text
from llamatelemetry.llama import ServerConfig, ServerManager, ServerManagerError
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.local.calls import RecordedCall, calls_from_spans
from llamatelemetry.local.recording import Recording, read_metric_totals, read_recorded, read_spans
from llamatelemetry.local.report import write_report

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

# Number of calls of examples/openai_chat.py. The last one fails intentionally.
_CALLS = 10
# Status codes of servers that lack an endpoint.
_NOT_OFFERED = frozenset({404, 405, 501})
_INTERRUPTED = 130


def run_demo(
    *,
    output: Path,
    engine: str = "llama.cpp",
    model: str | None = None,
    vllm: str | None = None,
    base_url: str | None = None,
) -> int:
    """Run the demo and print the recorded calls.

    Args:
        output: Directory for the recorded telemetry.
        engine: Engine to start: `llama.cpp` or `vllm`.
        model: Path of a GGUF file for llama.cpp; name or directory of a model for vLLM.
        vllm: Path of the command `vllm`.
        base_url: URL of a running server, instead of starting one.

    Returns:
        0 if every call was recorded as expected, 1 if not, 130 after Ctrl-C.
    """
    console = Console(highlight=False)
    try:
        with _sigterm_as_exception(), _directory(output):
            require("The demo", "openai", "llamatelemetry[demo]")
            if base_url is not None:
                server = nullcontext(DemoServer(base_url, is_own=False, has_all_routes=False))
            elif engine == "vllm":
                server = _vllm_server(console, vllm, model)
            else:
                server = _llama_server(console, model)
            with server as running:
                return _run(console, output, running)
    except KeyboardInterrupt:
        console.print("Interrupted. All processes have ended.")
        return _INTERRUPTED
    except (DemoError, MissingPackageError, ServerManagerError, FileNotFoundError) as error:
        _print(Console(stderr=True), f"error: {error}", "red")
        return 1


def _run(console: Console, output: Path, server: DemoServer) -> int:
    _print(console, f"$ opentelemetry-instrument python {find_program().name}", "bold")
    began_ns = time.time_ns()
    status, pid = run_program(
        server, output.resolve(), lambda line: _print(console, f"  {line}", "dim")
    )
    traces, metrics, logs = (
        list(output.glob(f"{each}-{pid}.jsonl")) for each in ("traces", "metrics", "logs")
    )
    # In containers, the program of an earlier demo often had the same process ID, and these files.
    calls = calls_from_spans(span for span in read_spans(traces) if span.start_ns >= began_ns)
    if calls:
        print_calls(console, calls)
    if totals := read_metric_totals(metrics, since_ns=began_ns):
        print_metrics(console, totals)
    console.print()
    files = [*traces, *metrics]
    page = _write_page(console, [*files, *logs], output / "report.html", began_ns)
    return _conclude(console, output, _problems(calls, status, server), files, page)


def _write_page(console: Console, files: Sequence[Path], page: Path, began_ns: int) -> Path | None:
    try:
        recorded = sum(map(read_recorded, files), Recording())
        write_report(recorded.since(began_ns), page)
    except (OSError, ImportError, ValueError) as error:
        _print(console, f"Cannot write the report: {error}", "yellow")
        return None
    return page


@contextmanager
def _directory(path: Path) -> Generator[None]:
    """Create a directory, and remove it again if it stays empty or the demo is interrupted."""
    is_new = not path.exists()
    make_private_directory(path)
    try:
        yield
    except KeyboardInterrupt:
        if is_new:  # it may contain an incomplete run
            shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                path.rmdir()


@contextmanager
def _llama_server(console: Console, given: str | None) -> Generator[DemoServer]:
    require("The demo", "xllamacpp", "llamatelemetry[demo]")
    model = find_demo_model() if given is None else Path(given)
    # With two slots, two of the program's four concurrent calls are queued.
    try:
        config = ServerConfig(model, port=0, n_ctx=2048, n_parallel=2, threads=1, embeddings=True)
    except ValueError as error:
        raise DemoError(f"--model: {error}") from error
    server = ServerManager(config, binary="embedded")
    try:
        _start(console, server, model)
        yield DemoServer(f"{server.url}/v1", is_own=True, model=model.stem)
        # The log has the cause.
        if not server.is_healthy():
            raise DemoError("the llama.cpp server has crashed")
    finally:
        server.stop()


@contextmanager
def _vllm_server(console: Console, command: str | None, model: str | None) -> Generator[DemoServer]:
    began = time.monotonic()
    with ExitStack() as stack:
        with console.status("vLLM is starting") as status:
            server = stack.enter_context(
                vllm_server(
                    command,
                    model,
                    lambda line: status.update(safe_text(f"vLLM is starting  {line}")),
                )
            )
        took_s = time.monotonic() - began
        _print(
            console, f"vLLM serves {server.model} at {server.base_url} (started in {took_s:.1f} s)"
        )
        if model is None:
            _print(console, "This tiny model has random weights: its text is noise.")
        yield server


def _start(console: Console, server: ServerManager, model: Path) -> None:
    began = time.monotonic()
    with console.status(safe_text(f"llama.cpp is loading {model.name}")) as status:
        server.start(
            lambda line: status.update(safe_text(f"llama.cpp is loading {model.name}  {line}"))
        )
    took_s = time.monotonic() - began
    _print(console, f"llama.cpp serves {model.name} at {server.url} (started in {took_s:.1f} s)")


def _problems(calls: Sequence[RecordedCall], status: int, server: DemoServer) -> Iterator[str]:
    """Yield a sentence for each unexpected result."""
    if status != 0:
        yield f"The program exited with status {status}."
    if len(calls) != _CALLS:
        yield f"Expected {_CALLS} calls, recorded {len(calls)}."
    for number, call in enumerate(calls, start=1):
        is_intended = number == _CALLS
        not_offered = not server.has_all_routes and call.http_status in _NOT_OFFERED
        if call.error and not is_intended and not not_offered:
            yield f"Call {number} failed: {printable(call.error, lines=False)}."
        if is_intended and server.is_own and not call.error:
            yield f"Call {number} failed, but was not recorded as failed."


def _conclude(
    console: Console,
    output: Path,
    problems: Iterator[str],
    files: Sequence[Path],
    page: Path | None,
) -> int:
    found = list(problems)
    for problem in found:
        _print(console, problem, "bold red")
    if not found:
        _print(
            console, f"All {_CALLS} calls were recorded. The last one fails intentionally.", "green"
        )
    for path in files:
        _print(console, f"OTLP JSON lines: {path}")
    if page is not None:
        _print(console, f"Report, to open in a browser: {page}", "bold")
    if found:
        _print(console, "Next: run llamatelemetry doctor", "bold")
        return 1
    program = output / find_program().name
    program.write_bytes(find_program().read_bytes())
    why = f"llamatelemetry why {shlex.quote(str(output))}"
    _print(console, f"The program: {program}")
    _print(console, f"Next, see where the time went: {why}", "bold")
    _print(console, "Then run your program: llamatelemetry run -- python your_program.py", "bold")
    return 0


def _print(console: Console, text: str, style: str = "") -> None:
    """Print text without wrapping it, and without markup and control characters in it."""
    console.print(safe_text(text, style, lines=True), soft_wrap=True)


@contextmanager
def _sigterm_as_exception() -> Generator[None]:
    """Raise `SystemExit` on SIGTERM, so that child processes are ended as after Ctrl-C."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
