"""The options of ``llamatelemetry bench``.

By themselves, because ``--help`` shows them and needs nothing of what runs a benchmark.
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
    """The options, as they were given: each field is one of the command line."""

    url: Annotated[str, typer.Option(help="The server: llama.cpp, or any OpenAI-compatible one.")]
    model: Annotated[
        str | None, typer.Option(help="The model to ask for; the server's first by default.")
    ] = None
    profile: Annotated[
        Literal["quick", "standard", "thorough"], typer.Option(help="10, 50 or 200 requests.")
    ] = "standard"
    concurrency: Annotated[
        int, typer.Option(min=1, help="How many are always under way; with --rate, at most.")
    ] = 1
    rate: Annotated[
        str | None, typer.Option(help="Arrivals per second, whatever the answers take; 1:8 grows.")
    ] = None
    arrival: Annotated[
        Literal["poisson", "constant"], typer.Option(help="How arrivals are spaced.")
    ] = "poisson"
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of each reply.")] = 128
    cache: Annotated[
        Literal["cold", "warm"], typer.Option(help="Keep the prompt cache out of it, or full.")
    ] = "cold"
    seed: Annotated[int, typer.Option(help="Of prompts, arrivals and statistics.")] = 0
    slo: Annotated[
        str | None, typer.Option(help="Objectives for the goodput: ttft=500ms,tpot=50ms")
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Lines, JSON lines or ShareGPT; synthetic without."
        ),
    ] = None
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", help="Hold the file's conversations to their end.")
    ] = False
    input_tokens: Annotated[
        int,
        typer.Option(min=1, help="Exact length of synthetic prompts."),
    ] = 128
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs; 3 or more tell them apart; 6 with --against.")
    ] = 1
    sweep: Annotated[
        str | None, typer.Option(help="Loads one after the other: concurrency=1,2,4 or rate=1,2")
    ] = None
    compare: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="An earlier JSON: exit 1 if slower."),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(help="Another server, measured in turns: exit 1 if the first is slower."),
    ] = None
    allow: Annotated[
        list[str] | None, typer.Option(help="A condition that may differ, such as server.build.")
    ] = None
    min_effect: Annotated[
        float, typer.Option(min=0.0, help="The least difference that matters, as a share.")
    ] = 0.05
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="A file to write: .json, .html, .md or .csv."),
    ] = None
    html: Annotated[Path | None, typer.Option(help="The same as --output FILE.html.")] = None

    @property
    def files(self) -> list[Path]:
        """Every file that is to be written."""
        return [*(self.output or ()), *((self.html,) if self.html else ())]


def options_are_fields(run: Callable[[BenchOptions], None]) -> Callable[..., None]:
    """Make a command that has the fields as options, of a function that takes them as one."""

    @wraps(run)
    def command(**given: Any) -> None:
        run(BenchOptions(**given))

    made: Any = command
    made.__signature__ = inspect.signature(BenchOptions, eval_str=True)  # typer reads this
    return made
