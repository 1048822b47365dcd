"""The options of `llamatelemetry bench`.

They have a module of their own, because `--help` needs them without the benchmark's imports.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of the command line, one field each."""

    url: Annotated[
        str, typer.Option(help="URL of a llama.cpp server or another OpenAI-compatible server.")
    ]
    model: Annotated[
        str | None, typer.Option(help="Model name; the first one that the server lists by default.")
    ] = None
    profile: Annotated[
        Literal["quick", "standard", "thorough"],
        typer.Option(help="Number of requests: 10, 50 or 200."),
    ] = "standard"
    concurrency: Annotated[
        int, typer.Option(min=1, help="Number of concurrent requests; with --rate, the maximum.")
    ] = 1
    rate: Annotated[
        str | None, typer.Option(help="Arrivals per second (open loop); 1:8 ramps up.")
    ] = None
    arrival: Annotated[
        Literal["poisson", "constant"], typer.Option(help="Distribution of the arrivals.")
    ] = "poisson"
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum output tokens per request.")] = 128
    cache: Annotated[
        Literal["cold", "warm"], typer.Option(help="cold bypasses the prompt cache, warm fills it.")
    ] = "cold"
    seed: Annotated[int, typer.Option(help="Random seed of prompts, arrivals and statistics.")] = 0
    slo: Annotated[
        str | None, typer.Option(help="SLOs for the goodput, such as ttft=500ms,tpot=50ms.")
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Prompts: text lines, JSON lines or ShareGPT; synthetic by default.",
        ),
    ] = None
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", help="Run all turns of each conversation in the file.")
    ] = False
    input_tokens: Annotated[
        int,
        typer.Option(min=1, help="Number of tokens of each synthetic prompt."),
    ] = 128
    repeats: Annotated[
        int,
        typer.Option(
            min=1, help="Number of runs (3 or more give an interval across runs; 6 with --against)."
        ),
    ] = 1
    sweep: Annotated[
        str | None, typer.Option(help="Run a series of loads: concurrency=1,2,4 or rate=1,2.")
    ] = None
    compare: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Earlier result (JSON); exit with 1 if the new one is slower.",
        ),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            help="URL of a second server, measured in interleaved runs; exit with 1 if the first is slower."
        ),
    ] = None
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Condition that may differ between the results, such as server.build."),
    ] = None
    min_effect: Annotated[
        float, typer.Option(help="Smallest relevant slowdown as a fraction (0.05 = 5%).")
    ] = 0.05
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="File to write: .json, .html, .md or .csv."),
    ] = None
    html: Annotated[Path | None, typer.Option(help="Same as --output FILE.html.")] = None

    @property
    def files(self) -> list[Path]:
        """Files to write."""
        return [*(self.output or ()), *((self.html,) if self.html else ())]


def options_are_fields(run: Callable[[BenchOptions], None]) -> Callable[..., None]:
    """Turn a function of `BenchOptions` into a command that has the fields as options."""

    @wraps(run)
    def command(**given: Any) -> None:
        run(BenchOptions(**given))

    made: Any = command
    made.__signature__ = inspect.signature(BenchOptions, eval_str=True)  # typer reads this
    return made
