"""Secrets hidden by encodings and nesting: the random attack, and the rules that it has led to."""

from __future__ import annotations

import json
import random

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from llamatelemetry.otel import RedactionLogProcessor
from llamatelemetry.otel.redaction.embedded import Unescaped
from llamatelemetry.otel.redaction.messages import redact_messages
from llamatelemetry.otel.redaction.redactor import Redaction, Redactor
from llamatelemetry.otel.redaction.rules import Rules
from tests.otel.redaction.attack import CONTENT_NAMES, Pipeline, case, forms, leaks

GONE = "[REDACTED]"


def redaction(*keys: str, prompts: bool = False, patterns: tuple[str, ...] = ("email",)):
    """Return a redaction with these keys and patterns."""
    return Redaction(Redactor(Rules.of(prompts, keys, patterns)))


@pytest.mark.parametrize("first", [0, 10_000_000, 20_000_000])
def test_random_telemetry_exports_no_hidden_secret(first):
    assert leaks(range(first, first + 300)) == []


def test_attack_finds_secret_that_nothing_redacts(monkeypatch):
    monkeypatch.setattr("tests.otel.redaction.attack.PATTERNS", ())
    monkeypatch.setattr("tests.otel.redaction.attack.KEYS", ())
    assert len(leaks(range(200))) > 50


def test_case_of_seed_is_reproducible():
    assert case(7) == case(7)
    assert case(7) != case(8)
    assert b"a b" in forms("a b")


@pytest.mark.parametrize("name", CONTENT_NAMES)
def test_content_of_every_instrumentation_is_redacted(name):
    assert redaction(prompts=True).attribute(name, "a b c") != "a b c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to ada%40example.com now", f"to {GONE} now"),
        ("to ada%2540example%252ecom", f"to {GONE}"),
        ("ada&#64;example&#x2E;com!", f"{GONE}!"),
        ("ada&commat;example&period;com", GONE),
        ("ada&amp;#64;example.com", GONE),
        (r"ada\u0040example.com", GONE),
        (r"ada\\\\u0040example.com", GONE),
        (r"b'ada\x40example.com'", f"b'{GONE}'"),
        ("%61%64%61%40%65%78%2e%63%6f%6d", GONE),
        # Not escapes, and not a reason to change the text.
        ("50% of &nosuch; C:\\new &#9999999; 5%", "50% of &nosuch; C:\\new &#9999999; 5%"),
        ("a%20b", "a%20b"),
    ],
)
def test_pattern_matches_behind_escapes(text, expected):
    assert redaction().text(text) == expected


def test_escaped_line_break_does_not_join_a_key_with_the_text_before_it():
    key = "hf_" + "a1" * 17
    for text in (f"a:\\n{key}\\n", f"a:\\\\\\n{key}"):
        found = redaction(patterns=("huggingface_token",)).text(text)
        assert found == text.replace(key, GONE)


def test_long_runs_of_backslashes_are_searched_in_linear_time():
    # Quadratic time would be minutes.
    assert Unescaped.of("\\" * 300_000) is None
    text = "'" * 100_000 + "\\" * 200_000
    assert redaction("pin").text(f"{text}:") == f"{text}:"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": 1, "pin": "1234", "x": "cut of', f'{{"id": 1, "pin": "{GONE}", "x": "cut of'),
        ('{"id": 1, "pin": "12', f'{{"id": 1, "pin": "{GONE}'),
        ('data: {"PIN":1234,"x":2}', f'data: {{"PIN":{GONE},"x":2}}'),
        ('{"pin":1}\n{"pin":[1, 2]}', f'{{"pin":{GONE}}}\n{{"pin":{GONE}'),
        ("got {'pin': 'a \"b\" c', 'x': 'y'}", f"got {{'pin': '{GONE}', 'x': 'y'}}"),
        (r'"{\"pin\": \"a \\\"b\\\" c\", \"x\": 1}"', rf'"{{\"pin\": \"{GONE}\", \"x\": 1}}"'),
        (r'cut {"p\u0069n": "1234", "x": 1', rf'cut {{"p\u0069n": "{GONE}", "x": 1'),
        ('{"pin": "1", "pin": "2"}', f'{{"pin": "{GONE}", "pin": "{GONE}"}}'),
        ('cut {"password": null, "a": {"pin": {"b": 1}, "x": 2', None),
        ('cut {"spin": "1234"', 'cut {"spin": "1234"'),
    ],
)
def test_redact_keys_match_fields_in_text_that_is_not_json_as_a_whole(text, expected):
    if expected is None:
        expected = f'cut {{"password": null, "a": {{"pin": {GONE}'
    assert redaction("pin").attribute("note", text) == expected


def test_redact_keys_match_fields_in_bytes():
    assert redaction("pin").attribute("x", b'{"pin": "\xc3\xa4"}') == f'{{"pin":"{GONE}"}}'.encode()


def test_redact_prompts_matches_content_fields_in_cut_json():
    given = '{"step": 1, "prompt": "what is'
    assert redaction(prompts=True).attribute("note", given) == f'{{"step": 1, "prompt": "{GONE}'
    assert redaction().attribute("note", given) == given


def test_redact_keys_match_labels_of_messages():
    given = [{"role": "user", "parts": [{"type": "tool_call", "id": "c-17", "name": "get"}]}]
    found = redact_messages(given, redaction("id", "name", prompts=True))
    assert found[0]["parts"][0] == {"type": "tool_call", "id": GONE, "name": GONE}


def test_names_of_fields_in_messages_that_are_text_are_redacted():
    given = {"role": "user", "how are you": 1, "+493012345678": 2, "kept_name": 3}
    found = redact_messages(given, redaction(prompts=True, patterns=("phone",)))
    assert found == {"role": "user", GONE: GONE, "kept_name": GONE}
    typed = {"type": "x", "server_tool_call": {"type": "+493012345678", "a question": "b"}}
    assert redact_messages(typed, redaction(prompts=True, patterns=("phone",))) == {
        "type": "x",
        "server_tool_call": {"type": GONE, GONE: GONE},
    }


def test_event_name_and_severity_of_log_record_are_redacted():
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(RedactionLogProcessor(patterns=["email"]))
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("app").emit(event_name="mail a@example.com", severity_text="a@example.com")
    record = exporter.get_finished_logs()[0].log_record
    assert (record.event_name, record.severity_text) == (f"mail {GONE}", GONE)


def test_pipeline_of_attack_sends_what_is_not_redacted():
    sent = Pipeline().record("attribute", "note", json.dumps({"a": "kept text"}), random.Random(0))
    assert b"kept text" in sent
