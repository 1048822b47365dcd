"""Write the tables of docs/instrument/migrate.md from telemetry that each package has exported.

Run it in the repository: `.venv/bin/python -m scripts.migration_tables`. It installs each package
into an environment of its own in build/peers, runs scripts/_migration_program.py there with a real
llama.cpp server, and compares the names that arrive at an OTLP receiver. With `--check` it only
compares the tables. The versions are exact: a new release may export other names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scripts._page_tables import write_tables
from tests.support.llama_server import MODEL_ALIAS, LlamaServer, embedded_server
from tests.support.otlp_receiver import Received, http_receiver

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/instrument/migrate.md"
ENVIRONMENTS = ROOT / "build" / "peers"
PROGRAM = ROOT / "scripts" / "_migration_program.py"
OWN = "llamatelemetry"
NONE = "–"  # noqa: RUF001 - the sign of docs
SDK = ("opentelemetry-distro==0.66b2", "opentelemetry-exporter-otlp-proto-http==1.45.2")
OPERATIONS = ("chat", "text completion", "embeddings", "list of models")


class Peer(NamedTuple):
    """A package that records calls of the openai client.

    Attributes:
        title: Name in the tables.
        requirements: Packages to install.
        command: Command of the environment that starts a program with the instrumentation.
        content: Variables that record prompts and completions.
        renamed: Names of its attributes and metrics, and those of llamatelemetry.
    """

    title: str
    requirements: tuple[str, ...] = ()
    command: str = "opentelemetry-instrument"
    content: Mapping[str, str] = {}
    renamed: Mapping[str, str] = {}


PEERS = {
    OWN: Peer(
        OWN,
        content={"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"},
    ),
    "official": Peer(
        "genai-openai 1.3b0",
        ("openai==3.57.0", "opentelemetry-instrumentation-genai-openai==1.3b0", *SDK),
        content={"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"},
    ),
    "openai-v2": Peer(
        "openai-v2 2.4b0",
        (
            *("openai==2.54.0", "opentelemetry-instrumentation-openai-v2==2.4b0"),
            # It cannot be imported with version 1.3b0.
            *("opentelemetry-util-genai==0.4b0", *SDK),
        ),
        content={"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"},
        renamed={
            "gen_ai.system": "gen_ai.provider.name",
            "gen_ai.system.message": "gen_ai.input.messages",
            "gen_ai.user.message": "gen_ai.input.messages",
            "gen_ai.choice": "gen_ai.output.messages",
        },
    ),
    "openllmetry": Peer(
        "OpenLLMetry 0.62.4",
        ("openai==3.57.0", "opentelemetry-instrumentation-openai==0.62.4", *SDK),
        renamed={
            "gen_ai.is_streaming": "gen_ai.request.stream",
            "gen_ai.openai.api_base": "server.address, server.port",
            "llm.openai.chat_completions.exceptions": "gen_ai.client.operation.duration",
        },
    ),
    "openinference": Peer(
        "OpenInference 0.1.66",
        ("openai==3.57.0", "openinference-instrumentation-openai==0.1.66", *SDK),
        renamed={
            "openinference.span.kind": "gen_ai.operation.name",
            "llm.system": "gen_ai.provider.name",
            "llm.model_name": "gen_ai.response.model",
            "embedding.model_name": "gen_ai.response.model",
            "llm.invocation_parameters": "gen_ai.request.max_tokens, gen_ai.request.temperature",
            "llm.finish_reason": "gen_ai.response.finish_reasons",
            "llm.token_count.prompt": "gen_ai.usage.input_tokens",
            "llm.token_count.completion": "gen_ai.usage.output_tokens",
            "llm.token_count.prompt_details.cache_read": "gen_ai.usage.cache_read.input_tokens",
            "llm.input_messages.N.message.role": "gen_ai.input.messages",
            "llm.input_messages.N.message.content": "gen_ai.input.messages",
            "llm.output_messages.N.message.role": "gen_ai.output.messages",
            "llm.output_messages.N.message.content": "gen_ai.output.messages",
            "llm.prompts.N.prompt.text": "gen_ai.input.messages",
            "llm.choices.N.completion.text": "gen_ai.output.messages",
            "llm.tools.N.tool.json_schema": "gen_ai.tool.definitions",
            "First Token Stream Event": "gen_ai.response.time_to_first_chunk",
        },
    ),
    "openlit": Peer(
        "OpenLIT 1.45.0",
        (
            *("openai==2.54.0", "openlit==1.45.0", "opentelemetry-sdk==1.45.1"),
            # The resolver of pip does not find versions that fit.
            "opentelemetry-instrumentation==0.66b1",
            "opentelemetry-instrumentation-urllib3==0.66b1",
        ),
        command="openlit-instrument",
        renamed={"gen_ai.system_instructions": "gen_ai.input.messages"},
    ),
}


class Name(NamedTuple):
    """A name in exported telemetry.

    Attributes:
        kind: `attribute` of a span, `event` of a span, `log record`, or `metric`.
        text: The name, with `N` in the place of an index.
    """

    kind: str
    text: str


class Recorded(NamedTuple):
    """What a run has exported about calls of the openai client.

    Attributes:
        spans: Name and kind of the span of each operation, with `{model}` for the model.
        names: Names in spans, log records and metrics.
        content: Whether the prompt was exported.
    """

    spans: Mapping[str, str]
    names: frozenset[Name]
    content: bool


def python_of(name: str) -> Path:
    """Create the environment of a package, unless it exists. Return its interpreter."""
    if name == OWN:
        return Path(sys.executable)
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    complete = folder / "complete"
    requirements = "\n".join(PEERS[name].requirements)
    if not complete.exists() or complete.read_text() != requirements:
        print(f"Installing {PEERS[name].title}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS[name].requirements], check=True)
        complete.write_text(requirements)
    return python


def operation_of(name: str, attributes: Mapping[str, str]) -> str:
    """Return the operation of a span."""
    if "Page[Model]" in name:
        return "list of models"
    text = f"{name} {attributes.get('gen_ai.operation.name', '')}".lower()
    found = [each for each in ("embedding", "chat", "completion") if each in text]
    return {"embedding": "embeddings", "chat": "chat", "completion": "text completion"}[found[0]]


def run_program(name: str, server: LlamaServer, received: Received, *, content: bool) -> None:
    """Run the program with an instrumentation that exports to the receiver."""
    peer, python = PEERS[name], python_of(name)
    settings = {
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "shop",
        **({"OTEL_PYTHON_DISTRO": OWN} if name == OWN else {}),
        **(peer.content if content else {}),
    }
    command = [python.with_name(peer.command), python, PROGRAM]
    subprocess.run(command, env={**os.environ, **settings}, check=True, timeout=300)


def record(name: str, server: LlamaServer, *, content: bool) -> Recorded:
    """Return what an instrumentation exports about the calls of the program."""
    with http_receiver() as received:
        run_program(name, server, received, content=content)
    spans: dict[str, str] = {}
    names: set[Name] = set()
    for scope, span in exported(received, "traces", "resource_spans", "scope_spans", "spans"):
        if "openai" not in scope:  # The span of an HTTP library.
            continue
        attributes = {each.key: each.value.string_value for each in span.attributes}
        names |= {Name("attribute", re.sub(r"\.\d+\.", ".N.", key)) for key in attributes}
        names |= {Name("event", event.name) for event in span.events}
        if "llamatelemetry.phase" not in attributes:
            kind = {1: "INTERNAL", 3: "CLIENT"}[span.kind]
            title = span.name.replace(MODEL_ALIAS, "{model}")
            spans[operation_of(span.name, attributes)] = f"`{title}`, {kind}"
    for _, entry in exported(received, "logs", "resource_logs", "scope_logs", "log_records"):
        if entry.event_name.startswith("gen_ai."):
            names.add(Name("log record", entry.event_name))
    for _, metric in exported(received, "metrics", "resource_metrics", "scope_metrics", "metrics"):
        if metric.name.startswith(("gen_ai.", "llm.")):
            names.add(Name("metric", metric.name))
    return Recorded(spans, frozenset(names), b"Say hi." in b"".join(received.bodies))


def exported(received: Received, signal: str, *fields: str) -> Iterator[tuple[str, Any]]:
    """Yield each span, log record or metric with the name of its scope."""
    resources, scopes, entries = fields
    for message in received.messages[signal]:
        for resource in getattr(message, resources):
            for scope in getattr(resource, scopes):
                for entry in getattr(scope, entries):
                    yield scope.scope.name, entry


@cache
def recordings() -> Mapping[str, tuple[Recorded, Recorded]]:
    """Return the names that each package exports by default and with content."""
    with embedded_server(alias=MODEL_ALIAS, embeddings=True) as server:
        return {
            name: (record(name, server, content=False), record(name, server, content=True))
            for name in PEERS
        }


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join((lines[0], "|" + "---|" * len(header), *lines[1:]))


def spans_table() -> str:
    """Return the table of span names and defaults."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, (default, full) in recordings().items():
            spans = (full.spans.get(each, NONE) for each in OPERATIONS)
            has_metrics = any(each.kind == "metric" for each in full.names)
            facts = ("yes" if each else "no" for each in (has_metrics, default.content))
            yield PEERS[name].title, *spans, *facts

    header = ("Package", *(each.capitalize() for each in OPERATIONS))
    return table((*header, "Metrics", "Prompts by default"), rows())


def peer_table(name: str) -> str:
    """Return the names of a package that llamatelemetry spells differently or does not have."""
    peer, own, theirs = PEERS[name], recordings()[OWN][1].names, recordings()[name][1].names
    known = {each.text for each in own}
    if missing := peer.renamed.keys() - {each.text for each in theirs}:
        raise SystemExit(f"{peer.title} does not export {', '.join(sorted(missing))}")

    def counterpart(each: Name) -> str:
        targets = [target for target in peer.renamed.get(each.text, "").split(", ") if target]
        if missing := set(targets) - known:
            raise SystemExit(f"{OWN} does not export {', '.join(sorted(missing))}")
        return ", ".join(f"`{target}`" for target in targets) or NONE

    rows = ((each.kind, f"`{each.text}`", counterpart(each)) for each in sorted(theirs - own))
    same = {
        kind: ", ".join(f"`{each.text}`" for each in sorted(theirs & own) if each.kind == kind)
        for kind in ("attribute", "metric")
    }
    lines = [f"- Same {kind}s: {names}" for kind, names in same.items() if names]
    return "\n".join((table(("Kind", peer.title, OWN), rows), "", *lines)).strip()


TABLES: dict[str, Callable[[], str]] = {"spans": spans_table} | {
    name: (lambda name=name: peer_table(name)) for name in PEERS if name != OWN
}


if __name__ == "__main__":
    raise SystemExit(write_tables(PAGE, "scripts/migration_tables.py", TABLES, sys.argv[1:]))
