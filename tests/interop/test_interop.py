"""Another instrumentation of the openai client in the same process: one span per call.

The outermost instrumentation owns the span. OpenTelemetry's and OpenLLMetry's wrap the public
methods of the client, so they are always the outermost. OpenInference wraps the same method as the
plugin, so the last one to instrument is the outermost. OpenInference does not recognize a span of
the plugin, and adds a child span below it.

`scripts/test-interop` installs them and runs these tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.interop import probe

ROOT = Path(__file__).parents[2]
FOLDER = os.environ.get("INTEROP_FOLDER", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="run scripts/test-interop, which installs the packages"),
]


class OtherInstrumentation(NamedTuple):
    """An instrumentation of the openai client by another project.

    Attributes:
        distribution: Distribution on the package index.
        module: Module with its instrumentor.
        scope: Instrumentation scope of its spans.
        unseen: Calls for which it creates no span.
        unmeasured: Calls for which it records no metrics.
        retroactive: Calls whose span it creates after the response.
    """

    distribution: str
    module: str
    scope: str
    unseen: frozenset[str] = frozenset()
    unmeasured: frozenset[str] = frozenset()
    retroactive: frozenset[str] = frozenset()


OFFICIAL = OtherInstrumentation(
    "opentelemetry-instrumentation-genai-openai",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.instrumentation.genai.openai",
    unseen=frozenset({"completion"}),
)
OPENLLMETRY = OtherInstrumentation(
    "opentelemetry-instrumentation-openai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.openai.v1",
    unmeasured=frozenset({"completion", "response"}),
    # It creates this span after the response, so there are two spans.
    retroactive=frozenset({"response"}),
)
OPENINFERENCE = OtherInstrumentation(
    "openinference-instrumentation-openai",
    "openinference.instrumentation.openai",
    "openinference.instrumentation.openai",
    unmeasured=frozenset(call.__name__ for call in probe.CALLS),
)
OTHERS = (OFFICIAL, OPENLLMETRY, OPENINFERENCE)
PLUGIN = probe.PLUGIN
CALLS = [call.__name__ for call in probe.CALLS]
DURATION = "gen_ai.client.operation.duration"
# The responses to these calls do not have the engine's timings.
WITHOUT_TIMINGS = {"closed_stream", "response", "embeddings", "error"}


def run(others: tuple[OtherInstrumentation, ...], command: list[str], **variables: str) -> str:
    """Run a command in an environment that has exactly these instrumentations."""
    paths = [str(ROOT), *(str(Path(FOLDER, other.distribution)) for other in others)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    programs = Path(FOLDER, "venv", "bin")
    done = subprocess.run(
        [str(programs / part) if (programs / part).exists() else part for part in command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


class Recorded(NamedTuple):
    """The telemetry of all calls with the plugin and another instrumentation."""

    other: OtherInstrumentation
    plugin_is_outermost: bool
    results: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[(other, order) for other in OTHERS for order in ("plugin last", "plugin first")],
    ids=lambda param: f"{param[0].module}, {param[1]}",
)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    other, order = request.param
    modules = ["plugin", other.module]
    if order == "plugin last":
        modules.reverse()
    command = ["python", "-m", "tests.interop.probe", *modules]
    plugin_is_outermost = other is OPENINFERENCE and order == "plugin last"
    return Recorded(other, plugin_is_outermost, json.loads(run((other,), command)))


def call_spans(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the spans that represent a call of a model."""
    return [
        span
        for span in spans
        if "gen_ai.operation.name" in span["attributes"]
        or span["attributes"].get("openinference.span.kind") in {"LLM", "EMBEDDING"}
    ]


@pytest.mark.parametrize("call", CALLS)
def test_call_has_one_span_of_outermost_instrumentation(recorded: Recorded, call: str) -> None:
    other = recorded.other
    found = call_spans(recorded.results[call]["spans"])
    if call in other.retroactive:
        assert {span["scope"] for span in found} == {PLUGIN, other.scope}
        found = [span for span in found if span["scope"] == PLUGIN]
    if recorded.plugin_is_outermost:
        owner, inner = sorted(found, key=lambda span: span["scope"] != PLUGIN)
        assert "gen_ai.operation.name" not in inner["attributes"]  # It has other conventions.
        assert (owner["scope"], inner["parent"]) == (PLUGIN, owner["id"])
    else:
        (owner,) = found
        is_plugin = call in other.unseen | other.retroactive
        assert owner["scope"] == (PLUGIN if is_plugin else other.scope)
    assert owner["parent"] is None


@pytest.mark.parametrize("call", [call for call in CALLS if call not in WITHOUT_TIMINGS])
def test_owning_span_gets_engine_timings_and_phases(recorded: Recorded, call: str) -> None:
    spans = recorded.results[call]["spans"]
    late = recorded.other.scope if call in recorded.other.retroactive else None
    owner = next(s for s in call_spans(spans) if s["parent"] is None and s["scope"] != late)
    assert owner["attributes"]["gen_ai.prefill_ms"] == 2.0
    assert owner["attributes"]["gen_ai.decode_ms"] == 4.0
    assert owner["attributes"].get("gen_ai.provider.name", "llama_cpp") == "llama_cpp"
    phases = [span["name"] for span in spans if "llamatelemetry.phase" in span["attributes"]]
    assert phases == ["queue", "prefill", "decode"]
    assert {s["parent"] for s in spans if s["name"] in phases} == {owner["id"]}


@pytest.mark.parametrize("call", CALLS)
def test_tokens_and_durations_are_recorded_once(recorded: Recorded, call: str) -> None:
    other, metrics = recorded.other, recorded.results[call]["metrics"]
    from_plugin, from_other = metrics.get(PLUGIN, {}), metrics.get(other.scope, {})
    # OpenInference records no metrics, so the plugin does. Otherwise the owner of the span does.
    is_plugin = recorded.plugin_is_outermost or call in other.unseen | other.retroactive
    is_plugin = is_plugin or other is OPENINFERENCE
    assert from_plugin.get(DURATION, 0) == is_plugin
    assert from_other.get(DURATION, 0) == (not is_plugin and call not in other.unmeasured)
    assert ("gen_ai.client.token.usage" in from_plugin) is (
        is_plugin and call not in {"closed_stream", "error"}
    )
    if call not in WITHOUT_TIMINGS:
        assert from_plugin["gen_ai.server.request.duration"] == 1


PLAIN = {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
TO_STDOUT = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


def count_call_spans(others: tuple[OtherInstrumentation, ...], **variables: str) -> Counter[str]:
    """Make all calls without code. Count the outermost spans by operation, and the inner ones."""
    command = ["opentelemetry-instrument", "python", "-m", "tests.interop.probe"]
    printed = run(others, command, **TO_STDOUT, **variables)
    spans, decoder = [], json.JSONDecoder()
    while printed := printed.lstrip():
        span, end = decoder.raw_decode(printed)
        spans.append(span)
        printed = printed[end:]
    return Counter(
        "inner" if span["parent_id"] else span["name"].partition(" ")[0]
        for span in call_spans(spans)
    )


each_other = pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.module)


@each_other
def test_plain_distro_loads_both_and_call_has_one_span(other: OtherInstrumentation) -> None:
    found = count_call_spans((other,), **PLAIN)
    assert found.total() - found["inner"] == len(CALLS) + len(other.retroactive)
    if other is not OPENINFERENCE:  # Its span is inner or outer depending on the load order.
        assert found["inner"] == 0


@each_other
def test_llamatelemetry_distro_loads_only_one_of_them(other: OtherInstrumentation) -> None:
    found = count_call_spans((other,), OTEL_PYTHON_DISTRO="llamatelemetry")
    assert found == {"chat": len(CALLS) - 2, "text_completion": 1, "embeddings": 1}
    found = count_call_spans(
        (other,), OTEL_PYTHON_DISTRO="llamatelemetry", LLAMATELEMETRY_INSTRUMENTORS="theirs"
    )
    # The llama.cpp plugin records the HTTP requests of the calls that the other one misses.
    assert found.total() == len(CALLS) + len(other.retroactive)


def test_plugin_adds_no_span_to_all_others_together() -> None:
    """The other instrumentations nest; the plugin adds to the span of the innermost one."""
    without = count_call_spans(
        OTHERS, **PLAIN, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="llamatelemetry_openai"
    )
    assert count_call_spans(OTHERS, **PLAIN) == without
    assert without.total() > 2 * len(CALLS)
