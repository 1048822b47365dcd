"""The commands and their options. Each command imports its module when it runs: `--help` is fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

import llamatelemetry
from llamatelemetry.cli._bench_options import BenchOptions, options_are_fields

app = typer.Typer(
    name="llamatelemetry",
    help="Trace and measure LLM inference with OpenTelemetry.",
    epilog="Example: llamatelemetry demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(llamatelemetry.__version__)
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - typer calls it
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def _http_url(url: str | None) -> str | None:
    """Validate a URL."""
    try:
        parts = urlsplit(url or "http://unset")
        is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port
        is_valid = False
    if not is_valid:
        from llamatelemetry.config import mask_url

        raise typer.BadParameter(f"must be an http:// or https:// URL, got {mask_url(url or '')!r}")
    return url


def _with_path(base_url: str | None) -> str | None:
    """Validate a URL, and append the path `/v1` if it has none."""
    url = _http_url(base_url)
    return url if url is None or urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"


@app.command(epilog="Example: llamatelemetry demo --engine vllm")
def demo(
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Directory for the recorded telemetry.")
    ] = Path("demo-output"),
    engine: Annotated[
        Literal["llama.cpp", "vllm"], typer.Option(help="Engine to start.")
    ] = "llama.cpp",
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to serve instead of the demo's: a GGUF file for llama.cpp, a name or"
            " directory for vLLM."
        ),
    ] = None,
    vllm: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The command vllm, if it is in another environment."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            callback=_with_path, help="URL of a running OpenAI-compatible server to use instead."
        ),
    ] = None,
) -> None:
    """Start a local inference server, run an example OpenAI program and print its calls."""
    from llamatelemetry.cli.demo import run_demo

    if model is not None and base_url is not None:
        raise typer.BadParameter("--model and --base-url cannot be combined")
    if engine == "vllm" and base_url is not None:
        raise typer.BadParameter("--engine and --base-url cannot be combined")
    if vllm is not None and engine != "vllm":
        raise typer.BadParameter("--vllm needs --engine vllm")
    if model is not None and engine == "llama.cpp" and not Path(model).is_file():
        raise typer.BadParameter(f"--model must be a GGUF file, got {model}")
    raise typer.Exit(
        run_demo(output=output, engine=engine, model=model, vllm=vllm, base_url=base_url)
    )


@app.command(epilog="Example: llamatelemetry doctor --server http://127.0.0.1:8080")
def doctor(
    server: Annotated[
        str | None,
        typer.Option(callback=_http_url, help="Also check this inference server (URL)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also list the options at their defaults.")
    ] = False,
) -> None:
    """Check installation, configuration and export endpoints."""
    from llamatelemetry.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(server=server, as_json=as_json, verbose=verbose))


@app.command(
    epilog="Example: llamatelemetry bench --url http://127.0.0.1:8080 --profile quick --concurrency 4",
)
@options_are_fields
def bench(options: BenchOptions) -> None:
    """Benchmark an inference server, and compare it with an earlier result."""
    from llamatelemetry.cli.bench import run_bench

    raise typer.Exit(run_bench(options))


@app.command(
    epilog="Example: llamatelemetry run -- python app.py",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(  # noqa: PLR0917 - typer turns the parameters into options
    command: Annotated[list[str], typer.Argument(help="Command to run, after `--`.")],
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="SQLite file to write; an existing one gets a new run."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the OTLP/HTTP receiver; 0 picks a free one."),
    ] = 0,
    grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Also receive OTLP/gRPC on this port.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the report on loopback while the command runs.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write an HTML report next to the database.")] = True,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the summary as JSON, as the last line of standard output."
        ),
    ] = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="Exit with 1 if a call failed.")
    ] = False,
) -> None:
    """Run a command and record its LLM calls locally, without a collector or code changes.

    All its Python processes, including workers, export to a receiver on loopback.
    Prints a summary when the command exits. The exit status is that of the command.
    """
    from llamatelemetry.cli.run import RunOptions, run_command

    options = RunOptions(output, port, grpc_port, live, report, as_json, fail_on_error)
    raise typer.Exit(run_command(command, options))


@app.command(epilog="Example: llamatelemetry report")
def report(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Database of `llamatelemetry run`, OTLP JSON lines, or a directory of both; "
            "the latest run in llamatelemetry-data by default.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="HTML file to write; next to PATH by default."),
    ] = None,
) -> None:
    """Create an HTML report from recorded telemetry."""
    from llamatelemetry.cli.report import report_command

    raise typer.Exit(report_command(path, output))


@app.command(epilog="Example: llamatelemetry why --slow 2x --fail-on 'prefill_again>5%'")
def why(  # noqa: PLR0917 - typer turns the parameters into options
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Database of `llamatelemetry run`, OTLP JSON lines, or a directory of them; "
            "the latest run by default."
        ),
    ] = None,
    call: Annotated[
        str | None, typer.Option(help="Explain only the calls whose span or trace id starts so.")
    ] = None,
    slow: Annotated[
        str | None,
        typer.Option(
            metavar="2x|SECONDS",
            help="Explain only calls that took this many times the median of their model, "
            "or this many seconds.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="10m|TIME", help="Explain only calls since then: 30s, 10m, 2h or an ISO time."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART>LIMIT",
            help="Exit with 1 if a part takes more than a share of the time, or more ms or s in "
            "all, or no call was recorded: prefill_again>5%, prefill_again:evicted>2s.",
        ),
    ] = None,
) -> None:
    """Explain where the time of recorded calls went: client, network, queue, engine, other calls.

    The parts of a call add up to its duration, and each has its evidence.
    """
    from llamatelemetry.cli.why import run_why

    raise typer.Exit(
        run_why(path, call=call, slow=slow, since=since, as_json=as_json, fail_on=fail_on or ())
    )


@app.command(epilog="Example: llamatelemetry topology --json")
def topology(
    as_json: Annotated[bool, typer.Option("--json", help="Print the topology as JSON.")] = False,
) -> None:
    """Show how the GPUs of this machine are connected: NVLink, PCIe, NUMA nodes and NICs.

    Exits with 0 if the machine has no GPU.
    """
    from llamatelemetry.distributed import TopologyMapper

    found = TopologyMapper().detect()
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
