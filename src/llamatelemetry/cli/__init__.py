"""The command line ``llamatelemetry``.

Each command imports its own module when it runs, so that ``--help`` stays quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

import llamatelemetry
from llamatelemetry.cli._bench_options import BenchOptions, options_are_fields

app = typer.Typer(
    name="llamatelemetry",
    help="OpenTelemetry for LLM inference: every call seen from the client and from the engine.",
    epilog="Example: llamatelemetry demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line. Exit status: 0 good, 1 the checked thing is bad, 2 usage."""
    # Not every locale has our characters, and not every file name can be encoded.
    stdout: Any = sys.stdout
    if getattr(stdout, "errors", None) in {"strict", "surrogateescape"}:
        stdout.reconfigure(errors="replace")
    app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(llamatelemetry.__version__)
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - typer calls it
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def _with_path(base_url: str | None) -> str | None:
    """Check the address and give it the path that OpenAI clients expect, if it has none."""
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise typer.BadParameter(f"{base_url!r} is not an http address")
    return base_url if parts.path.strip("/") else f"{base_url.rstrip('/')}/v1"


@app.command("demo", epilog="Example: llamatelemetry demo --output demo-output")
def demo_command(
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Where the recorded telemetry goes.")
    ] = Path("demo-output"),
    model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A GGUF file to serve instead."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            callback=_with_path, help="A running OpenAI-compatible server to use instead."
        ),
    ] = None,
) -> None:
    """Show it at work: a llama.cpp server, a plain OpenAI program, every call of it in a table."""
    from llamatelemetry.cli.demo import run_demo

    if model is not None and base_url is not None:
        raise typer.BadParameter("--model is for the demo's own server, --base-url for yours")
    raise typer.Exit(run_demo(output=output, model=model, base_url=base_url))


@app.command("doctor", epilog="Example: llamatelemetry doctor --server http://127.0.0.1:8080")
def doctor_command(
    server: Annotated[
        str | None, typer.Option(help="An inference server that should be reachable, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Tell whether telemetry would arrive: what would load, what would not and why."""
    from llamatelemetry.cli.doctor.diagnose import run_doctor

    raise typer.Exit(run_doctor(server=server, as_json=as_json))


@app.command(
    "bench",
    epilog="Example: llamatelemetry bench --url http://127.0.0.1:8080 --profile quick --concurrency 4",
)
@options_are_fields
def bench_command(options: BenchOptions) -> None:
    """Measure a server under load, and compare it with an earlier benchmark."""
    from llamatelemetry.cli.bench import run_bench

    raise typer.Exit(run_bench(options))


@app.command(
    "run",
    epilog="Example: llamatelemetry run -- python app.py",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run_command_command(  # noqa: PLR0917 - typer makes options of them
    command: Annotated[list[str], typer.Argument(help="The command, after `--`.")],
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Where the telemetry is kept: an SQLite file."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where OTLP is received; 0 picks a free port.")
    ] = 0,
    grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Receive OTLP over gRPC there, too.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve a page on loopback that shows it as it comes.")
    ] = False,
    report: Annotated[
        bool, typer.Option(help="Leave an HTML page of it all beside the store.")
    ] = True,
) -> None:
    """Run a command and see all its calls to models: no collector, no change to the program.

    Every Python process of it, workers included, sends its telemetry to a receiver on loopback.
    At its end a table says what it came to. The exit status is the command's.
    """
    from llamatelemetry.cli.run import run_command

    raise typer.Exit(
        run_command(
            command, output=output, port=port, grpc_port=grpc_port, live=live, report=report
        )
    )


@app.command("report", epilog="Example: llamatelemetry report llamatelemetry-data")
def report_command_command(
    path: Annotated[
        Path, typer.Argument(help="A store of `llamatelemetry run`, or OTLP JSON lines.")
    ],
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The page; beside PATH if not given.")
    ] = None,
) -> None:
    """Make one HTML page of what was recorded: traces, latencies, tokens, errors, messages."""
    from llamatelemetry.cli.run import report_command

    raise typer.Exit(report_command(path, output))


@app.command("topology", epilog="Example: llamatelemetry topology --json")
def topology_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all that is known as JSON.")
    ] = False,
) -> None:
    """Show how the GPUs of this machine are connected: NVLink, PCIe, the CPUs and NICs near them.

    A machine without a GPU is good, too: the answer says so.
    """
    from llamatelemetry.cli.topology import run_topology

    raise typer.Exit(run_topology(as_json=as_json))
