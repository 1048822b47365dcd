"""docs/operate/troubleshooting.md explains every warning, and every problem that `doctor` finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.messages import GAP, Message, files_with_texts_from_elsewhere, messages

PAGE = Path(__file__).parents[1] / "docs/operate/troubleshooting.md"

# Files with calls that log or show a text of another function, and where that text comes from.
FROM_ELSEWHERE = {
    "cli/doctor/config.py": "the warnings of config/",
    "cli/doctor/exporters.py": "the warnings of distro/_export_plan.py",
    "cli/doctor/instrumentors.py": "InstrumentorStatus, of which only `warn` is a problem",
    "cli/doctor/versions.py": "the versions themselves, and a list of unmet requirements",
    "config/_sources.py": "invalid_value_message of config/_option.py",
    "config/otel_variables.py": "invalid_value_message, and _batch_sizes",
    "distro/_instrumentors.py": "skip_message",
    "distro/_sdk.py": "the warnings of distro/_export_plan.py",
    "llama/server/manager.py": "_crash_error",
}


def text_of(page: str) -> str:
    """Return the text of a page as a reader searches it."""
    return " ".join(page.replace("`", "").split())


def test_every_message_is_on_the_page():
    page = text_of(PAGE.read_text(encoding="utf-8"))
    missing = [f"{each.shown} ({each.place})" for each in messages() if not each.is_in(page)]
    assert missing == []


def test_texts_from_elsewhere_are_known():
    """Another file here needs an entry in `_ELSEWHERE` of tests/support/messages.py, or a reason."""
    assert files_with_texts_from_elsewhere() == {
        f"llamatelemetry/{name}" for name in FROM_ELSEWHERE
    }


def test_messages_of_all_kinds_are_found():
    """One of each way in which the code writes a message."""
    shown = {each.shown for each in messages()}
    assert {
        "Instrumentor … failed to load",  # logged with a text
        "Cannot encode … for …; lost",  # logged by a method that gets the text
        "Ignored unknown variable …. …",  # given to `warn_once`
        "the certificate is not trusted",  # a finding of doctor
        "…=… creates a provider without an exporter",  # an f-string
        "no response within … s",  # a finding whose text is in a variable
        "the llama.cpp server ……",  # returned by a function
    } <= shown


@pytest.mark.parametrize(
    ("text", "page", "is_there"),
    [
        (f"Cannot read {GAP}; lost", "x Cannot read FILE; lost y", True),
        (f"Cannot read {GAP}; lost", "x Cannot write FILE; lost y", False),
        (f"{GAP} is lost. Free the disk", "FILE is lost", True),
        (f"Use {GAP}, not {GAP}", "Use this, or that", False),
    ],
)
def test_message_is_searched_by_its_first_sentence(text: str, page: str, is_there: bool):
    assert Message("", text).is_in(page) is is_there
