#!/usr/bin/env python3
"""Test the plugins below frameworks whose model calls another instrumentation records too.

Each model call must end as one span with tokens, each token must be counted once by
`gen_ai.client.token.usage`, and the `traceparent` of the request must name a span of its trace.

    scripts/test_frameworks.py                 all pairs, one table; 1 when one of them is wrong
    scripts/test_frameworks.py langchain       the pairs of some frameworks
    scripts/test_frameworks.py --verbose       each call of a wrong pair

The frameworks do not agree on the versions of the openai client, so there are several
environments in `build/frameworks/`, of about 700 MB in all. `--fresh` creates them again. The
script needs a package index. The versions are exact: a new release may record its spans in
another way, and needs a look.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "frameworks"
DISTRIBUTIONS = (ROOT, *sorted(ROOT.glob("src/*/")))
TOKENS = 26  # of each call to the server of `tests/interop`

REQUIREMENTS = {
    "openai-3": (
        *("openai==3.57.0", "langchain==1.5.0", "langchain-openai==1.7.4"),
        *("openai-agents==0.24.0", "pydantic-ai-slim[openai]==2.68.0", "litellm==1.110.2"),
        *("langfuse==5.0.4", "logfire==5.4.0"),
        "opentelemetry-instrumentation-langchain==0.62.4",
        "opentelemetry-instrumentation-openai-agents==0.62.4",
        "opentelemetry-instrumentation-litellm==0.62.4",
        "openinference-instrumentation-langchain==0.1.80",
        "openinference-instrumentation-openai-agents==2.6.0",
        "openinference-instrumentation-pydantic-ai==0.1.30",
        "openinference-instrumentation-litellm==0.1.51",
        "opentelemetry-instrumentation-genai-langchain==1.3b0",
        "opentelemetry-instrumentation-genai-openai-agents==1.3b0",
    ),
    "instructor": (
        *("openai==3.3.0", "instructor==1.17.0", "langfuse==5.0.4"),
        "openinference-instrumentation-instructor==0.1.29",
    ),
    "openai-2": (
        *("openai==2.54.0", "llama-index-llms-openai-like==0.8.1"),
        "opentelemetry-instrumentation-llamaindex==0.62.4",
        "openinference-instrumentation-llama-index==4.6.1",
        "opentelemetry-instrumentation-genai-llama-index==1.3b0",
    ),
}


class Pair(NamedTuple):
    """A framework and an instrumentation of it.

    Attributes:
        environment: Key of `REQUIREMENTS`.
        framework: Framework, by its name in `tests/interop/framework_probe.py`.
        instrumentation: Instrumentation, by its name there; `none` for the plugins alone.
        package: Package of the instrumentation.
        duplicates: Whether it creates its span after the response. Then there are two spans.
        without_tokens: Calls whose span does not keep the tokens.
    """

    environment: str
    framework: str
    instrumentation: str
    package: str
    duplicates: bool = False
    without_tokens: frozenset[str] = frozenset()


def pairs_of(environment: str, framework: str, **packages: str) -> list[Pair]:
    """Return the pairs of a framework, and the plugins alone."""
    instrumentations = {"none": "", **packages}
    return [Pair(environment, framework, *each) for each in instrumentations.items()]


OLLM, OI = "opentelemetry-instrumentation", "openinference-instrumentation"
PAIRS = (
    *pairs_of(
        "openai-3",
        "langchain",
        openllmetry=f"{OLLM}-langchain",
        openinference=f"{OI}-langchain",
        official=f"{OLLM}-genai-langchain",
        langfuse="langfuse",
    ),
    *pairs_of(
        "openai-2",
        "llama-index",
        openllmetry=f"{OLLM}-llamaindex",
        openinference=f"{OI}-llama-index",
        official=f"{OLLM}-genai-llama-index",
    ),
    *pairs_of(
        "openai-3",
        "openai-agents",
        openllmetry=f"{OLLM}-openai-agents",
        openinference=f"{OI}-openai-agents",
        official=f"{OLLM}-genai-openai-agents",
    ),
    # The server sends no usage in this stream, and Logfire replaces the tokens by zeros.
    Pair(
        *("openai-3", "openai-agents", "logfire", "logfire"),
        without_tokens=frozenset({"chat stream"}),
    ),
    *pairs_of(
        "openai-3",
        "pydantic-ai",
        own="pydantic-ai-slim",
        openinference=f"{OI}-pydantic-ai",
        logfire="logfire",
    ),
    *pairs_of("openai-3", "litellm", openllmetry=f"{OLLM}-litellm", openinference=f"{OI}-litellm"),
    Pair("openai-3", "litellm", "own", "litellm", duplicates=True),
    Pair("openai-3", "langfuse", "own", "langfuse"),
    *pairs_of("instructor", "instructor", openinference=f"{OI}-instructor", langfuse="langfuse"),
    *pairs_of("openai-3", "openai"),
    # Its span of a stream ends before the stream. A second span, in another trace, has the tokens.
    Pair(
        *("openai-3", "openai", "logfire", "logfire"),
        without_tokens=frozenset({"stream", "async stream"}),
    ),
)
FRAMEWORK_PACKAGES = {
    "langchain": "langchain-openai",
    "llama-index": "llama-index-llms-openai",
    "pydantic-ai": "pydantic-ai-slim",
    "langfuse": "openai",
}


class Counts(NamedTuple):
    """What was recorded of one or more calls.

    Attributes:
        calls: Requests to the model.
        spans: Spans of model calls that have tokens.
        span_tokens: Tokens on them.
        metric_tokens: Tokens in `gen_ai.client.token.usage`.
        connected: Requests whose `traceparent` names a span in the trace of one of them.
    """

    calls: int
    spans: int
    span_tokens: int
    metric_tokens: int
    connected: int

    def are_right(self) -> bool:
        """Return whether each call was recorded once."""
        tokens = self.calls * TOKENS
        return self.calls > 0 and self[1:] == (self.calls, tokens, tokens, self.calls)

    def are_right_in_metrics(self) -> bool:
        """Return whether the tokens of each call were recorded once by the metric."""
        return self.calls > 0 and self.metric_tokens == self.calls * TOKENS


def create_environment(
    name: str,
    requirements: Sequence[str],
    distributions: Sequence[Path] = DISTRIBUTIONS,
    *,
    fresh: bool = False,
) -> Path:
    """Create an environment with llamatelemetry, unless it exists. Return its interpreter."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists() and not fresh:
        return python
    print(f"Installing {name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    packages = [part for folder in distributions for part in ("-e", folder)]
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, *packages, *requirements], check=True)
    complete.touch()
    return python


def version_of(python: Path, package: str) -> str:
    """Return the installed version of a package."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_calls(python: Path, pair: Pair) -> dict[str, Any]:
    """Make all calls of a pair in a process of its own. Return what was recorded."""
    done = subprocess.run(
        [python, "-m", "tests.interop.framework_probe", *pair[1:3], "plugins"],
        cwd=ROOT,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{pair.framework} with {pair.instrumentation}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def tokens_on(span: Mapping[str, Any]) -> int | None:
    """Return the tokens that a backend would count for a span of a model call."""
    attributes = span["attributes"]
    is_call = (
        attributes.get("gen_ai.operation.name") in {"chat", "text_completion", "generate_content"}
        or attributes.get("openinference.span.kind") == "LLM"
        or attributes.get("langfuse.observation.type") == "generation"
        or (span["scope"].startswith("logfire") and "gen_ai.request.model" in attributes)
    )
    if not is_call:
        return None
    usage = json.loads(attributes.get("langfuse.observation.usage_details", "{}"))
    found = [
        attributes.get("gen_ai.usage.input_tokens"),
        attributes.get("llm.token_count.prompt"),
        *(usage.get(name) for name in ("input", "prompt_tokens", "input_tokens")),
    ]
    given = [
        attributes.get("gen_ai.usage.output_tokens"),
        attributes.get("llm.token_count.completion"),
        *(usage.get(name) for name in ("output", "completion_tokens", "output_tokens")),
    ]
    total = max(filter(None, found), default=0) + max(filter(None, given), default=0)
    return total or None


def count(result: Mapping[str, Any]) -> Counts:
    """Count what was recorded of one call."""
    tokens = {span["id"]: tokens_on(span) for span in result["spans"]}
    counted = {span_id: number for span_id, number in tokens.items() if number is not None}
    traces = {span["trace"] for span in result["spans"] if span["id"] in counted}
    connectable = {span["id"] for span in result["spans"] if span["trace"] in traces}
    parents = [(each or "--").split("-")[2] for each in result["traceparents"]]
    return Counts(
        calls=len(parents),
        spans=len(counted),
        span_tokens=sum(counted.values()),
        metric_tokens=round(sum(result["metrics"].values())),
        connected=sum(parent in connectable for parent in parents),
    )


def rows_of(pairs: list[Pair], *, fresh: bool, verbose: bool) -> Iterator[tuple[bool, list[str]]]:
    """Yield whether each pair is right, and its row in the table."""
    pythons: dict[str, Path] = {}
    for pair in pairs:
        if pair.environment not in pythons:
            requirements = REQUIREMENTS[pair.environment]
            pythons[pair.environment] = create_environment(
                pair.environment, requirements, fresh=fresh
            )
        python = pythons[pair.environment]
        results = make_calls(python, pair)
        counts = {name: count(result) for name, result in results.items()}
        errors = [
            f"{name}: {result['error']}" for name, result in results.items() if result["error"]
        ]
        is_right = not errors and all(
            each.are_right_in_metrics()
            if pair.duplicates or name in pair.without_tokens
            else each.are_right()
            for name, each in counts.items()
        )
        if verbose and not is_right:
            print(*pair, *errors, *counts.items(), sep="\n  ", file=sys.stderr)
        total = Counts(*map(sum, zip(*counts.values(), strict=True)))
        framework = FRAMEWORK_PACKAGES.get(pair.framework, pair.framework)
        names = [
            f"{package} {version_of(python, package)}" if package else "-"
            for package in (framework, pair.package)
        ]
        verdict = "known limit" if pair.duplicates or pair.without_tokens else "yes"
        yield is_right, [*names, *map(str, total), verdict if is_right else "NO"]


def main() -> int:
    """Run the pairs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    frameworks = sorted({pair.framework for pair in PAIRS})
    parser.add_argument("frameworks", nargs="*", metavar="framework", help=", ".join(frameworks))
    parser.add_argument("--fresh", action="store_true", help="create the environments again")
    parser.add_argument("--verbose", action="store_true", help="show the calls of wrong pairs")
    options = parser.parse_args()
    unknown = set(options.frameworks) - set(frameworks)
    if unknown:
        parser.error(f"framework must be one of {', '.join(frameworks)}, got {', '.join(unknown)}")
    pairs = [each for each in PAIRS if each.framework in (options.frameworks or frameworks)]
    header = ["Framework", "Other instrumentation", "Model calls", "Spans with tokens"]
    header += ["Tokens on spans", "Tokens in the metric", "Calls connected", "As expected"]
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    is_right = True
    for is_row_right, row in rows_of(pairs, fresh=options.fresh, verbose=options.verbose):
        print(f"| {' | '.join(row)} |", flush=True)
        is_right = is_right and is_row_right
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
