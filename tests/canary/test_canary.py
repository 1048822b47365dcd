"""Secret texts in every field of every plugin and client do not reach telemetry.

For each configuration, a separate process runs the scenarios and exports to a real OTLP receiver,
to files and to the console. The tests search all of the output: the bytes that the receiver got,
the files, standard output, and the logs of llamatelemetry at debug level.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.canary.scenarios import (
    ALWAYS_RECORDED,
    ERRORS,
    IN_PROCESS,
    KEY,
    THIRD_PARTY,
    WITHOUT_CONTENT,
)
from tests.canary.secret_markers import PATTERN, marker, markers_in
from tests.support.otlp_receiver import http_receiver

ROOT = Path(__file__).parents[2]
CAPTURE = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event"}
ANY_SECRET = {
    "LLAMATELEMETRY_REDACT_PATTERNS": rf'["(?i){PATTERN}", "secrets"]'.replace("\\", r"\\")
}
RESOURCE = marker("resource")
ALL = (*WITHOUT_CONTENT, *ERRORS, *THIRD_PARTY, *ALWAYS_RECORDED)


class ExportedText(dict[str, str]):
    """The output of a process, by exporter."""

    def leaked_markers(self) -> dict[str, set[str]]:
        """Return the markers in each output, except that of the resource, which is not content."""
        return {way: markers_in(text) - {RESOURCE} for way, text in self.items()}

    def has_no_markers(self) -> bool:
        return not any(map(markers_in, self.values())) and KEY not in "".join(self.values())


def run(
    folder: Path, scenarios: Sequence[Callable[[], None]], spans: int = 150, **variables: str
) -> ExportedText:
    """Run scenarios in a process with these variables. They record at least `spans` spans."""
    with http_receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-m", "tests.canary", *(scenario.__name__ for scenario in scenarios)],
            cwd=ROOT,
            env={
                **os.environ,
                "OTEL_RESOURCE_ATTRIBUTES": f"owner={RESOURCE}",
                "LLAMATELEMETRY_EXPORTER": "otlp,file,console-json",
                "LLAMATELEMETRY_OTLP_ENDPOINT": receiver.url,
                "LLAMATELEMETRY_EXPORT_PATH": str(folder),
                # Newer clients deprecate image variations and audio translations.
                "PYTHONWARNINGS": "ignore::DeprecationWarning",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        exported = ExportedText(
            {
                "receiver": b"\n".join(receiver.bodies).decode("latin-1"),
                "files": "".join(path.read_text() for path in folder.glob("*.jsonl")),
                "console": done.stdout,
                "logs": done.stderr,
            }
        )
        assert len(receiver.spans()) >= spans
        for way in ("receiver", "files", "console"):
            assert exported[way].count("gen_ai.operation.name") >= spans // 4, way
    return exported


@pytest.mark.slow
def test_markers_are_exported_when_content_is_captured_without_redaction(tmp_path):
    """The other tests would find a leak."""
    exported = run(tmp_path, ALL, **CAPTURE)
    for way in ("receiver", "files", "console"):
        found = exported.leaked_markers()[way]
        assert len(found) > 60, way
        for place in ("openai.chat.messages", "reply.arguments", "server.chat", "oi.in", "event"):
            assert any(word.startswith(marker(place).rstrip("~")) for word in found), (way, place)
        assert RESOURCE in markers_in(exported[way])
    assert exported.leaked_markers()["logs"] == set()


def test_prompt_redaction_removes_every_marker_from_content(tmp_path):
    variables = {**CAPTURE, "LLAMATELEMETRY_REDACT_PROMPTS": "true"}
    exported = run(tmp_path, (*WITHOUT_CONTENT, *ERRORS, *THIRD_PARTY), **variables)
    assert exported.leaked_markers() == {way: set() for way in exported}
    assert KEY not in "".join(exported.values())


@pytest.mark.slow
def test_pattern_redaction_removes_every_marker(tmp_path):
    exported = run(tmp_path, ALL, **CAPTURE, **ANY_SECRET)
    assert exported.has_no_markers()


@pytest.mark.slow
def test_hash_redaction_removes_every_marker(tmp_path):
    variables = {
        **CAPTURE,
        **ANY_SECRET,
        "LLAMATELEMETRY_REDACT_PROMPTS": "true",
        "LLAMATELEMETRY_REDACT_MODE": "hash",
        "LLAMATELEMETRY_REDACT_HASH_KEY": "k",
    }
    exported = run(tmp_path, ALL, **variables)
    assert exported.has_no_markers()
    assert exported["receiver"].count("[HMAC:") > 300


@pytest.mark.slow
def test_only_texts_that_are_not_content_are_exported_by_default(tmp_path):
    scenarios = (*WITHOUT_CONTENT, *ALWAYS_RECORDED)
    exported = run(tmp_path, scenarios, OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT="true")
    assert KEY not in "".join(exported.values())
    for way, found in exported.leaked_markers().items():
        own = {word for word in found if word.startswith("c4n4ry.own.")}
        assert found - own == ({marker("request.stop")} if way != "logs" else set()), way
        assert len(own) >= 6 or way == "logs"


@pytest.mark.slow
def test_spans_of_plugins_have_no_error_messages(tmp_path):
    """Redaction is off. Spans of the application, which have these messages, are left out."""
    exported = run(tmp_path, (*WITHOUT_CONTENT, *ERRORS), CANARY_OWN_SPANS="no")
    assert exported.leaked_markers() == {way: set() for way in exported}
    assert KEY not in "".join(exported.values())


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", IN_PROCESS)
def test_in_process_engine_exports_markers_only_when_content_is_captured(tmp_path, scenario):
    spans, ways = 7, ("receiver", "files", "console")
    for number, (variables, is_exported) in enumerate(
        [
            (CAPTURE, True),
            ({}, False),
            ({**CAPTURE, "LLAMATELEMETRY_REDACT_PROMPTS": "true"}, False),
            ({**CAPTURE, **ANY_SECRET}, False),
        ]
    ):
        folder = tmp_path / str(number)
        found = run(folder, [scenario], spans, **variables).leaked_markers()
        assert {way: bool(found[way]) for way in ways} == dict.fromkeys(ways, is_exported), (
            variables
        )
        assert found["logs"] == set()
