"""Secrets in every place, through every plugin and client: where do they come out?

For each way of setting up, a process of its own holds all talks, with a real OTLP receiver, the
file exporter and the console exporter at the other end, and everything is searched: the bytes
that the receiver got, the files, what was printed, and what our loggers say at debug level.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.canary.talks import ERRORS, FOREIGN, IN_PROCESS, KEY, NO_CONTENT, TALKS
from tests.canary.words import PATTERN, at, found_in
from tests.support.otlp_receiver import http_receiver

ROOT = Path(__file__).parents[2]
CAPTURE = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event"}
ANY_SECRET = {
    "LLAMATELEMETRY_REDACT_PATTERNS": rf'["(?i){PATTERN}", "secrets"]'.replace("\\", r"\\")
}
RESOURCE = at("resource")
ALL = (*TALKS, *ERRORS, *FOREIGN, *NO_CONTENT)


class Heard(dict[str, str]):
    """All that came out, by the way it came out by."""

    def places(self) -> dict[str, set[str]]:
        """The places whose secrets came out. The resource is no content: it has a test apart."""
        return {way: found_in(text) - {RESOURCE} for way, text in self.items()}

    def is_without_secrets(self) -> bool:
        return not any(map(found_in, self.values())) and KEY not in "".join(self.values())


def hold(
    folder: Path, talks: Sequence[Callable[[], None]], spans: int = 150, **variables: str
) -> Heard:
    """Let a process hold the talks, which make at least so many spans, under these settings."""
    with http_receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-m", "tests.canary", *(talk.__name__ for talk in talks)],
            cwd=ROOT,
            env={
                **os.environ,
                "OTEL_RESOURCE_ATTRIBUTES": f"owner={RESOURCE}",
                "LLAMATELEMETRY_EXPORTER": "otlp,file,console",
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
        heard = Heard(
            {
                "receiver": b"\n".join(receiver.bodies).decode("latin-1"),
                "files": "".join(path.read_text() for path in folder.glob("*.jsonl")),
                "console": done.stdout,
                "logs": done.stderr,
            }
        )
        assert len(receiver.spans()) >= spans
        for way in ("receiver", "files", "console"):
            assert heard[way].count("gen_ai.operation.name") >= spans // 4, way
    return heard


@pytest.mark.slow
def test_search_finds_secrets_when_content_is_captured(tmp_path):
    """With content captured and nothing redacted, most places come out everywhere."""
    heard = hold(tmp_path, ALL, **CAPTURE)
    for way in ("receiver", "files", "console"):
        found = heard.places()[way]
        assert len(found) > 60, way
        for place in ("openai.chat.messages", "reply.arguments", "server.chat", "oi.in", "event"):
            assert any(word.startswith(at(place).rstrip("~")) for word in found), (way, place)
        assert RESOURCE in found_in(heard[way])
    assert heard.places()["logs"] == set()


def test_prompt_redaction_removes_all_content(tmp_path):
    variables = {**CAPTURE, "LLAMATELEMETRY_REDACT_PROMPTS": "true"}
    heard = hold(tmp_path, (*TALKS, *ERRORS, *FOREIGN), **variables)
    assert heard.places() == {way: set() for way in heard}
    assert KEY not in "".join(heard.values())


@pytest.mark.slow
def test_pattern_redaction_removes_every_secret(tmp_path):
    heard = hold(tmp_path, ALL, **CAPTURE, **ANY_SECRET)
    assert heard.is_without_secrets()


@pytest.mark.slow
def test_hash_redaction_removes_every_secret(tmp_path):
    variables = {
        **CAPTURE,
        **ANY_SECRET,
        "LLAMATELEMETRY_REDACT_PROMPTS": "true",
        "LLAMATELEMETRY_REDACT_MODE": "hash",
        "LLAMATELEMETRY_REDACT_HASH_KEY": "k",
    }
    heard = hold(tmp_path, ALL, **variables)
    assert heard.is_without_secrets()
    assert heard["receiver"].count("[HMAC:") > 300


@pytest.mark.slow
def test_default_settings_export_no_content(tmp_path):
    talks = (*TALKS, *NO_CONTENT)
    heard = hold(tmp_path, talks, OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT="true")
    assert KEY not in "".join(heard.values())
    for way, found in heard.places().items():
        own = {word for word in found if word.startswith("c4n4ry.own.")}
        assert found - own == ({at("request.stop")} if way != "logs" else set()), way
        assert len(own) >= 6 or way == "logs"


@pytest.mark.slow
def test_plugin_spans_have_no_error_messages(tmp_path):
    """Without redaction, too: the application's own spans, which have their words, are left out."""
    heard = hold(tmp_path, (*TALKS, *ERRORS), CANARY_OWN_SPANS="no")
    assert heard.places() == {way: set() for way in heard}
    assert KEY not in "".join(heard.values())


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("talk", IN_PROCESS)
def test_in_process_engines_export_no_secrets(tmp_path, talk):
    spans, ways = 7, ("receiver", "files", "console")
    for number, (variables, is_said) in enumerate(
        [
            (CAPTURE, True),
            ({}, False),
            ({**CAPTURE, "LLAMATELEMETRY_REDACT_PROMPTS": "true"}, False),
            ({**CAPTURE, **ANY_SECRET}, False),
        ]
    ):
        folder = tmp_path / str(number)
        found = hold(folder, [talk], spans, **variables).places()
        assert {way: bool(found[way]) for way in ways} == dict.fromkeys(ways, is_said), variables
        assert found["logs"] == set()
