"""The reference of telemetry: complete, and compared with what tests emit.

`Recorder` and the OTLP receivers of `tests.support` compare everything that llamatelemetry emits in
a test. Here is what no test needs to emit: the constants and string literals of the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating import attributes as development_attributes

from llamatelemetry.genai import Instrumenter, Request, Response
from llamatelemetry.semconv import attributes, gpu
from scripts._telemetry_table import metric_specs, read_table
from tests.support.recorder import Recorder

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(llamatelemetry|gen_ai|openai|hw|gpu)(\.[a-z][a-z0-9_]*)+")
# Attributes of other instrumentations, which llamatelemetry only reads or redacts.
FOREIGN = (
    "src/llamatelemetry/otel/redaction/attribute_names.py",
    "src/llamatelemetry/local/engine_spans.py",
)
NOT_TELEMETRY = {
    "openai.azure.com",  # host names
    "openai.azure.us",
    "openai.azure.cn",
    "llamatelemetry.collected",  # an instrument without data points, whose callback is a hook
    "llamatelemetry.option",  # a key of dataclass metadata
}


def is_scope_or_logger(name: str) -> bool:
    """Return whether a name is that of a module or package, or of its parent."""
    path = ROOT / "src" / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def literals() -> Iterator[tuple[str, str]]:
    """Yield the string constants of the code that look like names of telemetry, with their file."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if file in FOREIGN or "/build/" in file:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and NAME.fullmatch(value):
                yield value, file


def test_string_literals_of_the_code_are_in_the_reference():
    table = read_table()
    scopes = {scope for group in (*table.spans, *table.metric_groups) for scope in group.scopes}
    known = (
        table.attributes.keys()
        | table.metrics.keys()
        | {event.name for event in table.events}
        | scopes
        | NOT_TELEMETRY
    )
    unknown = {
        f"{name} in {file}"
        for name, file in literals()
        if name not in known and not is_scope_or_logger(name)
        if not name.startswith("openai._") and not name.startswith("openai.lib")
    }
    assert unknown == set()


def test_constants_are_in_the_reference():
    constants = {
        value
        for module in (attributes, gpu)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and name != "SCHEMA_URL"
    }
    assert constants - read_table().attributes.keys() == set()


def test_metric_specifications_are_in_the_reference():
    assert {spec.name for spec in metric_specs()} == read_table().metrics.keys()


def test_attributes_of_metrics_are_described():
    table = read_table()
    used = {name for metric in table.metrics.values() for name in metric.attributes}
    assert used - table.attributes.keys() == set()


def test_rows_name_known_spans_and_events():
    table = read_table()
    keys = {each.key for each in (*table.spans, *table.events)} | {"any", "resource"}
    assert {key for each in table.attributes.values() for key in each.on} <= keys


def test_every_attribute_is_described_once():
    names = [each.name for group in read_table().groups for each in group.attributes]
    assert len(names) == len(set(names))


def test_development_names_are_those_of_the_conventions():
    """`gen_ai.*` has moved to a repository without Python constants."""
    known = {
        line
        for path in development_attributes.__path__
        for module in Path(path).glob("*.py")
        for line in re.findall(r'Final = "([a-z_.]+)"', module.read_text(encoding="utf-8"))
    }
    named = {
        each.name
        for each in read_table().attributes.values()
        if each.stability == "development" and not each.name.startswith("gen_ai.")
    }
    assert named <= known


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"llamatelemetry.speed": 1}, "'llamatelemetry.speed'"),
        ({"gen_ai.request.seed": "seven"}, "is 'seven', not int"),
        ({"gen_ai.tool.name": "search"}, "where the reference does not have it"),
        ({"team": "search"}, None),
    ],
)
def test_recorder_reports_what_the_reference_lacks(parameters, problem):
    recorder = Recorder()
    instrumenter = Instrumenter("llamatelemetry.inference", "1", **recorder.providers)
    request = Request("chat", "example", "model", parameters=parameters)
    call = instrumenter.start(request)
    assert call is not None
    call.finish(Response())
    if problem is None:
        recorder.check_reference()
    else:
        with pytest.raises(AssertionError, match=problem):
            recorder.check_reference()


def test_recorder_reports_a_metric_that_the_reference_lacks():
    recorder = Recorder()
    meter = recorder.meter_provider.get_meter("llamatelemetry.pipeline")
    meter.create_histogram("gen_ai.execute_tool.duration", unit="ms").record(1, {"a": "b"})
    meter.create_counter("llamatelemetry.mistakes").add(1)
    with pytest.raises(AssertionError) as raised:
        recorder.check_reference()
    message = str(raised.value)
    assert "metric 'llamatelemetry.mistakes'" in message
    assert "histogram in ms, not histogram in s" in message
    assert "attribute 'a' of metric" in message
