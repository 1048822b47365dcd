"""The catalog of engines says what the readers read, and docs/instrument/engines.md shows the catalog."""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

from llamatelemetry.genai import measure_phases
from llamatelemetry.genai.engines import read_engine
from llamatelemetry.genai.engines.catalog import ENGINES, FIGURES, Engine, Route
from tests.support import payloads
from tests.support.engine_responses import RESPONSES, EngineResponse
from tests.support.recorder import Recorder

ROOT = Path(__file__).parents[2]
FIGURE_BY_ATTRIBUTE = {
    "llamatelemetry.queue_duration": "queue",
    "gen_ai.prefill_ms": "prefill",
    "gen_ai.decode_ms": "decode",
    "gen_ai.server.time_to_first_token": "TTFT",
    "gen_ai.tpot_ms": "TPOT",
    "gen_ai.usage.cache_read.input_tokens": "cached tokens",
    "llamatelemetry.cached_tokens": "cached tokens",
    "llamatelemetry.drafted_tokens": "draft tokens",
}
ROUTES = [
    pytest.param(engine, route, path, stream, id=f"{engine.name}-{path}-{mode}")
    for engine in ENGINES
    for route in engine.routes
    for path in route.paths
    for mode, stream in (("plain", False), ("stream", True))
    if (route.streams or not stream) and path != "/completion"
]


def claimed(route: Route, *, stream: bool) -> set[str]:
    return {
        figure
        for source in route.sources
        if not stream or source.on_streams is not None
        for figure in source.figures
    }


def read_native(response: EngineResponse) -> set[str]:
    timings = read_engine(response.fields, {}).timings
    assert timings is not None
    phases = measure_phases(timings, attempt_s=9.0, headers_s=None)
    found = {
        "queue": phases.queue_s,
        "prefill": phases.prefill_s,
        "decode": phases.decode_s,
        "TTFT": phases.time_to_first_token_s,
        "TPOT": phases.time_per_output_token_s,
        "cached tokens": timings.cached_tokens,
        "draft tokens": timings.drafted_tokens,
    }
    return {figure for figure, value in found.items() if value is not None}


def send(path: str, response: EngineResponse, *, stream: bool) -> None:
    """Call a route with the openai client, and read the response to its end."""
    base = "/api/v0" if path.startswith("/api/v0") else "/v1"
    # LM Studio's `/api/v0` has the form of OpenAI's interface, so the client can call it.
    client = payloads.client(
        lambda _: response.stream(path) if stream else response.plain(path),
        base_url=f"http://llm.test:8080{base}",
    )
    resource, arguments = {
        "/chat/completions": ("chat.completions", {"messages": payloads.MESSAGES}),
        "/completions": ("completions", {"prompt": "Hi"}),
        "/responses": ("responses", {"input": "Hi"}),
        "/embeddings": ("embeddings", {"input": "Hi"}),
    }[path.removeprefix(base)]
    if not hasattr(client, resource.partition(".")[0]):
        pytest.skip(f"this openai has no {resource}")
    call = attrgetter(resource)(client)
    options = {"stream": True} if stream else {}
    if stream and "responses" not in path:
        options["stream_options"] = {"include_usage": True}
    result = call.create(model="m", **arguments, **options)
    if stream:
        list(result)


@pytest.mark.parametrize(("engine", "route", "path", "stream"), ROUTES)
def test_readers_read_what_the_catalog_lists(
    instrumented: Recorder, engine: Engine, route: Route, path: str, *, stream: bool
) -> None:
    response = RESPONSES[engine.name, route.paths[0]]
    if response.is_native:
        assert read_native(response) == claimed(route, stream=stream)
        return
    send(path, response, stream=stream)
    attributes = instrumented.call().attributes or {}
    found = {figure for name, figure in FIGURE_BY_ATTRIBUTE.items() if name in attributes}
    assert found == claimed(route, stream=stream)
    if "queue" in found and engine.provider != "llama_cpp":
        assert attributes["llamatelemetry.queue_source"] == "engine"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_each_figure_is_either_known_or_has_a_reason(engine: Engine) -> None:
    for route in engine.routes:
        for stream in {False, route.streams}:
            reasons = [
                figure
                for unknown in route.unknown
                if stream or not unknown.only_stream
                for figure in unknown.figures
            ]
            known = claimed(route, stream=stream)
            assert sorted([*known, *reasons]) == sorted(FIGURES)


def test_page_shows_the_catalog() -> None:
    command = [sys.executable, ROOT / "scripts" / "engines_reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
