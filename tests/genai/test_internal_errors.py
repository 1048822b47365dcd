"""Internal errors are logged once and never raised into the application."""

from __future__ import annotations

import logging
import threading

import pytest

from llamatelemetry.genai import internal_errors


@pytest.fixture(autouse=True)
def production_mode():
    # This also forgets what was logged. The fixture `our_errors_surface` restores strictness.
    internal_errors.set_strict(False)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")
    return caplog


def fail(where: str, error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        internal_errors.log_once(where, caught)


def test_log_once_warns_with_traceback_on_first_failure(log):
    fail("reading a reply", ValueError("odd"))
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert record.name == "llamatelemetry"
    assert "llamatelemetry failed while reading a reply" in record.getMessage()
    assert "the application is not affected" in record.getMessage()
    line = fail.__code__.co_firstlineno + 2
    assert f"(ValueError at {__name__}:{line})" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert record.exc_info[2] is not None


def test_log_once_logs_repeated_failures_at_debug_level(log):
    for _ in range(3):
        fail("reading a reply", ValueError("odd"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert all(r.exc_info for r in log.records)


def test_log_once_distinguishes_places_and_error_types(log):
    fail("reading a reply", ValueError("odd"))
    fail("reading a request", ValueError("odd"))
    fail("reading a reply", KeyError("odd"))
    fail("reading a reply", ValueError("other words"))
    assert [r.levelno for r in log.records] == [logging.WARNING] * 3 + [logging.DEBUG]


def test_log_once_warns_once_when_many_threads_fail(log):
    together = threading.Barrier(16)

    def run() -> None:
        together.wait(5)
        fail("reading a reply", ValueError("odd"))

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(r.levelno for r in log.records) == [logging.DEBUG] * 15 + [logging.WARNING]


def test_log_once_raises_error_in_strict_mode(log):
    internal_errors.set_strict(True)
    error = ValueError("odd")
    with pytest.raises(ValueError, match="odd") as raised:
        fail("reading a reply", error)
    assert raised.value is error
    assert log.records == []


def test_set_strict_forgets_logged_errors(log):
    fail("reading a reply", ValueError("odd"))
    internal_errors.set_strict(False)
    fail("reading a reply", ValueError("odd"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.WARNING]
