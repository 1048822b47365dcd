"""`llamatelemetry bench`: run a benchmark, with the result of a comparison as exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llamatelemetry._html_page import check_installed
from llamatelemetry._optional import MissingPackageError, required_by
from llamatelemetry._terminal import printable
from llamatelemetry.bench.analysis.comparison import FingerprintMismatchError, check_min_effect
from llamatelemetry.bench.analysis.metrics import parse_slo
from llamatelemetry.bench.analysis.statistics import require_intervals
from llamatelemetry.bench.load.prompts import load_prompts, synthetic_prompts
from llamatelemetry.bench.load.schedule import BenchmarkProfile, Ramp
from llamatelemetry.bench.load.session import BenchmarkError
from llamatelemetry.bench.results import BenchmarkResults
from llamatelemetry.bench.runner import BenchmarkRunner
from llamatelemetry.config import LlamaTelemetryConfig, mask_url
from llamatelemetry.genai import as_list, as_str, get_field
from llamatelemetry.llama import LlamaCppClient, LlamaServerError, ServerLoadingError

if TYPE_CHECKING:
    from llamatelemetry.bench.sweep import SweepResults
    from llamatelemetry.cli._bench_options import BenchOptions

_SUCCESS, _FAILURE, _USAGE, _INTERRUPTED = 0, 1, 2, 130
_INTERLEAVED_REPEATS: Final = 6
_PROBE_TIMEOUT_S: Final = 10.0
# A key in the arguments would be visible in the list of processes.
_KEY_VARIABLES: Final = ("OPENAI_API_KEY", "LLAMA_API_KEY")


class _UsageError(Exception):
    """The options cannot be used; the message is shown to the user."""


@contextmanager
def _usage_error(subject: str = "") -> Generator[None]:
    """Turn an invalid value or an unreadable file into a usage error."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _UsageError(f"{subject}{error}") from error


def run_bench(options: BenchOptions) -> int:
    """Run the benchmark, print the result and write the files.

    Returns:
        0 on success; 1 if it is slower than the baseline, or all requests failed; 2 for invalid
        options; 130 after Ctrl-C.
    """
    try:
        with _telemetry():
            return _run(options)
    except (_UsageError, FingerprintMismatchError, MissingPackageError) as error:
        sys.stderr.write(printable(f"{error}\n"))
        return _USAGE
    except BenchmarkError as error:
        sys.stderr.write(printable(f"{error}\n"))
        return _FAILURE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(options: BenchOptions) -> int:
    if sum(given is not None for given in (options.sweep, options.compare, options.against)) > 1:
        raise _UsageError("--sweep, --compare and --against cannot be combined")
    if options.compare is not None or options.against is not None:
        require_intervals()  # fail before the benchmark, not after it
    with _usage_error():
        baseline = None if options.compare is None else BenchmarkResults.load(options.compare)
    _check_outputs(options.files, is_sweep=options.sweep is not None)
    with _usage_error("--min-effect: "):
        check_min_effect(options.min_effect)
    with _usage_error("--slo: "):
        parse_slo(options.slo)
    _rate(options.rate)
    client, model = _client_and_model(options.url, options)
    prompts = _prompts(options, client, model)
    runner = _runner(client, options)
    if options.sweep is not None:
        return _sweep(runner, model, prompts, options)
    if options.against is not None:
        return _interleaved(runner, model, prompts, options)
    results = runner.run(model, prompts, repeats=options.repeats)
    _print(results.summary())
    _write(results, options.files)
    return _status(results) if baseline is None else _compare(results, baseline, options)


def _client_and_model(url: str, options: BenchOptions) -> tuple[Any, str]:
    if not url.startswith(("http://", "https://")):
        hint = "" if "://" in url else f". Did you mean http://{url}?"
        raise _UsageError(f"The URL must start with http:// or https://, got {url}{hint}")
    client, known_model = _client(url)
    model = options.model or known_model
    if model is None:
        raise _UsageError(f"{mask_url(url)} does not list its models. Name one with --model")
    return client, model


def _runner(client: Any, options: BenchOptions) -> BenchmarkRunner:
    with _usage_error():
        return BenchmarkRunner(
            client,
            BenchmarkProfile[options.profile.upper()],
            concurrency=options.concurrency,
            rate=_rate(options.rate),
            arrival=options.arrival,
            max_tokens=options.max_tokens,
            cache=options.cache,
            seed=options.seed,
            slo=options.slo,
        )


def _interleaved(runner: BenchmarkRunner, model: str, prompts: Any, options: BenchOptions) -> int:
    client, other_model = _client_and_model(options.against or "", options)
    results, baseline = runner.run_interleaved(
        _runner(client, options),
        model,
        prompts,
        repeats=options.repeats if options.repeats > 1 else _INTERLEAVED_REPEATS,
        other_model_name=other_model,
    )
    _print(results.summary(), "", f"against {options.against}:", baseline.summary())
    _write(results, options.files)
    _write(baseline, [path.with_stem(f"{path.stem}-against") for path in options.files])
    return max(_compare(results, baseline, options), _status(baseline))


def _compare(results: BenchmarkResults, baseline: BenchmarkResults, options: BenchOptions) -> int:
    if _status(results) == _FAILURE:
        return _FAILURE  # without any good request there is nothing to compare
    with _usage_error():
        comparison = results.compare(
            baseline, allow=options.allow or (), min_effect=options.min_effect
        )
    _print("", comparison.summary())
    for path in options.files:
        if path.suffix.lower() == ".html":
            results.to_html(path, comparison=comparison)
    return max(_status(results), comparison.exit_code)


def _status(results: BenchmarkResults) -> int:
    if results.runs[-1].interrupted:
        return _INTERRUPTED
    return _SUCCESS if any(record.ok for record in results.requests) else _FAILURE


def _sweep(runner: BenchmarkRunner, model: str, prompts: Any, options: BenchOptions) -> int:
    parameter, _, listed = (options.sweep or "").partition("=")
    try:
        levels = [float(level) for level in listed.split(",")]
    except ValueError:
        levels = []
    if parameter not in {"concurrency", "rate"} or not levels:
        raise _UsageError(f"--sweep must be concurrency=1,2,4 or rate=0.5,1,2, got {options.sweep}")
    with _usage_error():
        if parameter == "rate":
            found = runner.sweep(model, prompts, rates=levels)
        else:
            whole: list[Any] = [int(each) if each.is_integer() else each for each in levels]
            found = runner.sweep(model, prompts, concurrencies=whole)
    _print(found.summary())
    _write(found, options.files)
    is_incomplete = len(found.points) < len(levels)
    return max(_FAILURE * is_incomplete, *(_status(point.results) for point in found.points))


def _check_outputs(paths: Iterable[Path], *, is_sweep: bool) -> None:
    """Raise before the benchmark if its results cannot be written."""
    for path in paths:
        accepted = {".json", ".html", ".md"} if is_sweep else {".csv", ".json", ".html", ".md"}
        if path.suffix.lower() not in accepted:
            raise _UsageError(f"--output must end in {', '.join(sorted(accepted))}, got {path}")
        if not path.resolve().parent.is_dir():
            raise _UsageError(f"--output must be in an existing directory, got {path}")
        if path.suffix.lower() == ".html":
            check_installed("An HTML report")


def _write(results: BenchmarkResults | SweepResults, paths: Iterable[Path]) -> None:
    for path in paths:
        results.save(path)
        _print(f"Saved to {path}")


def _client(url: str) -> tuple[Any, str | None]:
    """Return a client for the server, and the first model that it lists."""
    key = next((os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)), None)
    with (
        _usage_error(f"{mask_url(url)}: "),
        LlamaCppClient(url, api_key=key, timeout_s=_PROBE_TIMEOUT_S) as probe,
    ):
        described = _first_model(probe)
    model = as_str(get_field(described, "id"))
    if as_str(get_field(described, "owned_by")) == "llamacpp":
        return LlamaCppClient(url, api_key=key), model
    with required_by("Measuring a server other than llama.cpp", "openai"):
        import openai
    path = "" if url.rstrip("/").endswith("/v1") else "/v1"
    return openai.AsyncOpenAI(base_url=url.rstrip("/") + path, api_key=key or "none"), model


def _first_model(probe: LlamaCppClient) -> Any:
    import httpx2

    url = probe.base_url
    shown = mask_url(url)
    try:
        return next(iter(as_list(get_field(probe.models(), "data"))), None)
    except ServerLoadingError as error:
        raise BenchmarkError(f"{shown} is still loading its model. Try again later") from error
    except LlamaServerError as error:
        if error.status in {401, 403}:
            advice = f"Set {' or '.join(_KEY_VARIABLES)}"
        elif error.status >= 500:
            advice = _advice(url)
        else:
            return None  # not llama.cpp, and without a list of models
        raise BenchmarkError(f"{shown} cannot list its models: {error}. {advice}") from error
    except httpx2.TransportError as error:
        raise BenchmarkError(f"Cannot connect to {shown}: {error}. {_advice(url)}") from error


def _advice(url: str) -> str:
    """Return what to do about a server that does not respond, or about the proxy in front of it."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None:
        return "Start the server or check --url"
    shown = urlsplit(proxy)
    return (
        f"The request went through the proxy {shown.hostname}:{shown.port} of "
        f"{parts.scheme.upper()}_PROXY. Set NO_PROXY={parts.hostname} to connect directly"
    )


def _prompts(options: BenchOptions, client: Any, model: str) -> Any:
    if options.prompts is not None:
        with _usage_error("--prompts: "):
            return load_prompts(options.prompts, multi_turn=options.multi_turn)
    runs = BenchmarkProfile[options.profile.upper()].runs
    with _usage_error("--input-tokens: "):
        return synthetic_prompts(client, runs, options.input_tokens, seed=options.seed, model=model)


def _rate(given: str | None) -> float | Ramp | None:
    if given is None:
        return None
    start, colon, stop = given.partition(":")
    with _usage_error(f"--rate must be requests per second, such as 2 or 1:8, got {given}: "):
        return Ramp(float(start), float(stop)) if colon else float(start)


@contextmanager
def _telemetry() -> Generator[None]:
    """Export spans and metrics if the environment configures an export."""
    given = LlamaTelemetryConfig.from_env()
    if given.otlp_endpoint is None and given.option_value("exporter") is None:
        yield
        return
    from llamatelemetry.lifecycle import init, shutdown

    init(service_name=given.service_name or "llamatelemetry-bench")
    try:
        yield
    finally:
        shutdown()


def _print(*lines: str) -> None:
    sys.stdout.write(printable("\n".join(lines)) + "\n")
