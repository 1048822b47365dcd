"""Another instrumentation of the openai client in the same process: still one span per call.

Whoever is outermost owns the call. The official instrumentation and OpenLLMetry wrap the client's
public methods and so always are. OpenInference wraps the method that we wrap: the last to come is
outermost, and as it cannot know of a call of ours, its span is a child of it then.

`scripts/test-rivals` installs them and runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.rivals import probe

ROOT = Path(__file__).parents[2]
FOLDER = os.environ.get("RIVALS_FOLDER", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="scripts/test-rivals installs the rivals and runs this"),
]


class Rival(NamedTuple):
    distribution: str
    module: str
    scope: str
    does_not_see: frozenset[str] = frozenset()
    does_not_measure: frozenset[str] = frozenset()
    opens_late: frozenset[str] = frozenset()


OFFICIAL = Rival(
    "opentelemetry-instrumentation-genai-openai",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.instrumentation.genai.openai",
    does_not_see=frozenset({"completion"}),
)
OPENLLMETRY = Rival(
    "opentelemetry-instrumentation-openai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.openai.v1",
    does_not_measure=frozenset({"completion", "response"}),
    # Its span is made when the reply is there: in time for nobody, and beside ours.
    opens_late=frozenset({"response"}),
)
OPENINFERENCE = Rival(
    "openinference-instrumentation-openai",
    "openinference.instrumentation.openai",
    "openinference.instrumentation.openai",
    does_not_measure=frozenset(use.__name__ for use in probe.USES),
)
RIVALS = (OFFICIAL, OPENLLMETRY, OPENINFERENCE)
OURS = probe.OURS
USES = [use.__name__ for use in probe.USES]
DURATION = "gen_ai.client.operation.duration"
# Of these there is no reply with the engine's timings.
WITHOUT_TIMINGS = {"closed_stream", "response", "embeddings", "error"}


def run(rivals: tuple[Rival, ...], command: list[str], **variables: str) -> str:
    """Run where these rivals, and no others, are installed."""
    paths = [str(ROOT), *(str(Path(FOLDER, rival.distribution)) for rival in rivals)]
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


# --- instrumented in code ------------------------------------------------------------------


class Both(NamedTuple):
    rival: Rival
    ours_is_outermost: bool
    results: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[(rival, order) for rival in RIVALS for order in ("ours last", "ours first")],
    ids=lambda param: f"{param[0].module}, {param[1]}",
)
def both(request: pytest.FixtureRequest) -> Both:
    rival, order = request.param
    modules = [rival.module, "ours"] if order == "ours last" else ["ours", rival.module]
    command = ["python", "-m", "tests.rivals.probe", *modules]
    ours_is_outermost = rival is OPENINFERENCE and order == "ours last"
    return Both(rival, ours_is_outermost, json.loads(run((rival,), command)))


def calls(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spans that stand for a call of a model."""
    return [
        span
        for span in spans
        if "gen_ai.operation.name" in span["attributes"]
        or span["attributes"].get("openinference.span.kind") in {"LLM", "EMBEDDING"}
    ]


@pytest.mark.parametrize("use", USES)
def test_there_is_one_span_per_call_and_it_is_the_outermosts(both: Both, use: str) -> None:
    found = calls(both.results[use]["spans"])
    if use in both.rival.opens_late:
        assert {span["scope"] for span in found} == {OURS, both.rival.scope}
        found = [span for span in found if span["scope"] == OURS]
    if both.ours_is_outermost:
        owner, inner = sorted(found, key=lambda span: span["scope"] != OURS)
        assert "gen_ai.operation.name" not in inner["attributes"]  # a span of another convention
        assert (owner["scope"], inner["parent"]) == (OURS, owner["id"])
    else:
        (owner,) = found
        unseen = use in both.rival.does_not_see | both.rival.opens_late
        assert owner["scope"] == (OURS if unseen else both.rival.scope)
    assert owner["parent"] is None


@pytest.mark.parametrize("use", [use for use in USES if use not in WITHOUT_TIMINGS])
def test_it_has_the_engines_timings_and_phases_whoever_owns_it(both: Both, use: str) -> None:
    spans = both.results[use]["spans"]
    late = both.rival.scope if use in both.rival.opens_late else None
    owner = next(s for s in calls(spans) if s["parent"] is None and s["scope"] != late)
    assert owner["attributes"]["gen_ai.prefill_ms"] == 2.0
    assert owner["attributes"]["gen_ai.decode_ms"] == 4.0
    assert owner["attributes"].get("gen_ai.provider.name", "llama_cpp") == "llama_cpp"
    phases = [span["name"] for span in spans if "llamatelemetry.phase" in span["attributes"]]
    assert phases == ["queue", "prefill", "decode"]
    assert {s["parent"] for s in spans if s["name"] in phases} == {owner["id"]}


@pytest.mark.parametrize("use", USES)
def test_tokens_and_durations_are_recorded_once(both: Both, use: str) -> None:
    metrics = both.results[use]["metrics"]
    ours, theirs = metrics.get(OURS, {}), metrics.get(both.rival.scope, {})
    unseen = both.rival.does_not_see | both.rival.opens_late
    is_ours = both.ours_is_outermost or use in unseen
    # OpenInference is known to measure nothing; elsewhere its owner measures a call, or nobody.
    is_ours = is_ours or both.rival is OPENINFERENCE
    assert ours.get(DURATION, 0) == is_ours
    assert theirs.get(DURATION, 0) == (not is_ours and use not in both.rival.does_not_measure)
    assert ("gen_ai.client.token.usage" in ours) is (
        is_ours and use not in {"closed_stream", "error"}
    )
    if use not in WITHOUT_TIMINGS:
        assert ours["gen_ai.server.request.duration"] == 1


# --- without code --------------------------------------------------------------------------

PLAIN = {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
TO_STDOUT = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


def owners(rivals: tuple[Rival, ...], **variables: str) -> Counter[tuple[str, ...]]:
    """The scopes of the spans of calls that are inside no other, in the whole run."""
    command = ["opentelemetry-instrument", "python", "-m", "tests.rivals.probe"]
    printed = run(rivals, command, **TO_STDOUT, **variables)
    spans, decoder = [], json.JSONDecoder()
    while printed := printed.lstrip():
        span, end = decoder.raw_decode(printed)
        spans.append(span)
        printed = printed[end:]
    return Counter(
        "inner" if span["parent_id"] else span["name"].partition(" ")[0] for span in calls(spans)
    )


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.module)
def test_in_a_plain_distro_both_load_and_a_call_is_one_span(rival: Rival) -> None:
    found = owners((rival,), **PLAIN)
    assert found.total() - found["inner"] == len(USES) + len(rival.opens_late)
    if rival is not OPENINFERENCE:  # whose turn to load is a matter of chance
        assert found["inner"] == 0


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.module)
def test_our_distro_loads_one_of_the_two(rival: Rival) -> None:
    ours = owners((rival,), OTEL_PYTHON_DISTRO="llamatelemetry")
    assert ours == {"chat": len(USES) - 2, "text_completion": 1, "embeddings": 1}
    theirs = owners(
        (rival,), OTEL_PYTHON_DISTRO="llamatelemetry", LLAMATELEMETRY_INSTRUMENTORS="theirs"
    )
    # What theirs misses, our llama.cpp plugin sees where it leaves the process.
    assert theirs.total() == len(USES) + len(rival.opens_late)


def test_among_all_of_them_we_add_no_span() -> None:
    """They nest among themselves; ours adds to the innermost of theirs."""
    without = owners(RIVALS, **PLAIN, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="llamatelemetry_openai")
    with_ours = owners(RIVALS, **PLAIN)
    assert with_ours == without
    assert without.total() > 2 * len(USES)
