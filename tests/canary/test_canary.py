"""Secrets in every place, through every plugin and client: where do they come out?

For each way of setting up, all talks are held, with a real OTLP receiver, the file exporter and
the console exporter at the other end, and everything is searched: the bytes that the receiver
got, the files, what was printed, and our logs.
"""

from __future__ import annotations

import logging

import pytest

from llamatelemetry import flush, init, shutdown
from llamatelemetry.genai import guard
from tests.canary.talks import FOREIGN, KEY, NO_CONTENT, TALKS
from tests.canary.words import PATTERN, at, found_in
from tests.otlp_receiver import http_receiver

pytestmark = [
    # Newer clients deprecate image variations and audio translations; servers have them.
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
CAPTURED = {"capture_content": "span_and_event"}


class Heard:
    """What came out of a process in which the talks were held, by where it came out."""

    def __init__(self, tmp_path, capfd, caplog, receiver):
        self.folder, self.capfd, self.caplog, self.receiver = tmp_path, capfd, caplog, receiver
        self.spans = 0

    def hold(self, talks, **options) -> dict[str, set[str]]:
        """The places whose secrets came out, by the way they came out by."""
        init(
            otlp_endpoint=self.receiver.url,
            exporter="otlp,file,console",
            export_path=str(self.folder),
            **options,
        )
        for talk in talks.values():
            talk()
        assert flush(30)
        shutdown(30)
        self.spans = len(self.receiver.spans())
        printed = "".join(self.capfd.readouterr())
        ours = [r for r in self.caplog.records if r.name.startswith("llamatelemetry")]
        formatter = logging.Formatter()
        files = list(self.folder.glob("*.jsonl"))
        assert {path.name.partition("-")[0] for path in files} == {"traces", "metrics", "logs"}
        outputs = {
            "receiver": b"\n".join(self.receiver.bodies).decode("latin-1"),
            "files": "".join(path.read_text() for path in files),
            "console": printed,
            "our logs": "\n".join(formatter.format(record) for record in ours),
        }
        assert "chat smol" in outputs["receiver"]
        assert "chat smol" in outputs["files"]
        assert "chat smol" in outputs["console"]
        return {where: found_in(text) for where, text in outputs.items()}


@pytest.fixture
def heard(tmp_path, capfd, caplog, monkeypatch):
    guard.set_strict(False)  # as in production; what we then log of our errors is searched too
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"owner={at('resource')}")
    logger = logging.getLogger("llamatelemetry")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    with http_receiver() as receiver:
        yield Heard(tmp_path, capfd, caplog, receiver)
        shutdown()
    logger.setLevel(level)


def nowhere(found: dict[str, set[str]]) -> bool:
    return found == dict.fromkeys(found, set())


EVERYTHING = {**TALKS, **FOREIGN, **NO_CONTENT}
RESOURCE = at("resource")


def test_the_secrets_would_be_found(heard):
    """With content captured and nothing redacted, most places come out everywhere."""
    found = heard.hold(EVERYTHING, **CAPTURED)
    for where in ("receiver", "files", "console"):
        assert len(found[where]) > 60, where
        for place in ("openai.chat.messages", "reply.arguments", "server.chat", "oi.in", "event"):
            assert any(word.startswith(at(place)) for word in found[where]), (where, place)
    assert heard.spans > 150


def test_with_redaction_of_what_was_said_none_of_it_comes_out(heard):
    found = heard.hold({**TALKS, **FOREIGN}, redact_prompts=True, **CAPTURED)
    assert heard.spans > 150
    # The resource is no content; a pattern or a name can redact it.
    assert {where: words - {RESOURCE} for where, words in found.items()} == {
        where: set() for where in found
    }


def test_with_redaction_by_pattern_nothing_comes_out_at_all(heard):
    found = heard.hold(EVERYTHING, redact_patterns=[rf"(?i){PATTERN}", "secrets"], **CAPTURED)
    assert nowhere(found)


def test_with_hashes_nothing_comes_out_either(heard):
    found = heard.hold(
        EVERYTHING,
        redact_patterns=[rf"(?i){PATTERN}", "secrets"],
        redact_mode="hash",
        redact_hash_key="k",
        redact_prompts=True,
        **CAPTURED,
    )
    assert nowhere(found)


@pytest.mark.parametrize("emit", ["", "true"])
def test_without_content_and_redaction_our_plugins_say_nothing(heard, monkeypatch, emit):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", emit)
    # The application's span around a failing call records the error's own words: they are its.
    talks = {name: talk for name, talk in TALKS.items() if name != "openai errors"}
    found = heard.hold(talks)
    del found["console"]
    assert {where: words - {RESOURCE} for where, words in found.items()} == {
        where: set() for where in found
    }


def test_what_comes_out_without_content_is_none(heard):
    found = heard.hold(NO_CONTENT)
    own = {word for word in found["receiver"] if word.startswith(at("own"))}
    assert len(own) >= 6
    assert found["receiver"] - own == {RESOURCE, at("request.stop")}


def test_the_key_of_a_client_never_comes_out(heard):
    """Whatever is captured and redacted or not: it is found where servers quote it, only there."""
    talks = {name: talk for name, talk in TALKS.items() if "error" not in name}
    heard.hold(talks, **CAPTURED)
    assert KEY not in b"\n".join(heard.receiver.bodies).decode("latin-1")
