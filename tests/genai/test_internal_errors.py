"""Internal errors are logged once and never raised into the application."""

from __future__ import annotations

import logging
import threading

import pytest

from llamatelemetry.genai import internal_errors


@pytest.fixture(autouse=True)
def production_mode():
    # This also clears the logged errors. The fixture `our_errors_surface` restores strict mode.
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
    fail("parsing a response", ValueError("invalid"))
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert record.name == "llamatelemetry"
    assert "llamatelemetry failed while parsing a response" in record.getMessage()
    assert "the application is not affected" in record.getMessage()
    line = fail.__code__.co_firstlineno + 2
    assert f"(ValueError at {__name__}:{line})" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert record.exc_info[2] is not None


def test_log_once_logs_repeated_failures_at_debug_level(log):
    for _ in range(3):
        fail("parsing a response", ValueError("invalid"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert all(r.exc_info for r in log.records)


def test_log_once_distinguishes_places_and_error_types(log):
    fail("parsing a response", ValueError("invalid"))
    fail("parsing a request", ValueError("invalid"))
    fail("parsing a response", KeyError("invalid"))
    fail("parsing a response", ValueError("other message"))
    assert [r.levelno for r in log.records] == [logging.WARNING] * 3 + [logging.DEBUG]


def test_log_once_warns_once_when_many_threads_fail(log):
    barrier = threading.Barrier(16)

    def fail_at_barrier() -> None:
        barrier.wait(5)
        fail("parsing a response", ValueError("invalid"))

    threads = [threading.Thread(target=fail_at_barrier) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(r.levelno for r in log.records) == [logging.DEBUG] * 15 + [logging.WARNING]


def test_log_once_raises_error_in_strict_mode(log):
    internal_errors.set_strict(True)
    error = ValueError("invalid")
    with pytest.raises(ValueError, match="invalid") as raised:
        fail("parsing a response", error)
    assert raised.value is error
    assert log.records == []


def test_set_strict_forgets_logged_errors(log):
    fail("parsing a response", ValueError("invalid"))
    internal_errors.set_strict(False)
    fail("parsing a response", ValueError("invalid"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.WARNING]
