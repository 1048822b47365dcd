"""Errors of ours: told once, never raised into the application."""

from __future__ import annotations

import logging
import threading

import pytest

from llamatelemetry.genai import guard


@pytest.fixture(autouse=True)
def as_in_production():
    guard.set_strict(False)  # and forget what was reported; `our_errors_surface` restores


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")
    return caplog


def fail(where: str, error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        guard.report(where, caught)


def test_the_first_failure_is_a_warning_with_its_traceback(log):
    fail("reading a reply", ValueError("odd"))
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert record.name == "llamatelemetry"
    assert "llamatelemetry failed while reading a reply" in record.getMessage()
    assert "the application is not affected" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert record.exc_info[2] is not None


def test_further_failures_of_the_kind_are_told_at_debug_level(log):
    for _ in range(3):
        fail("reading a reply", ValueError("odd"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert all(r.exc_info for r in log.records)


def test_another_place_or_another_error_is_another_kind(log):
    fail("reading a reply", ValueError("odd"))
    fail("reading a request", ValueError("odd"))
    fail("reading a reply", KeyError("odd"))
    fail("reading a reply", ValueError("other words"))
    assert [r.levelno for r in log.records] == [logging.WARNING] * 3 + [logging.DEBUG]


def test_many_threads_that_fail_at_once_make_one_warning(log):
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


def test_a_test_suite_gets_the_error_itself(log):
    guard.set_strict(True)
    error = ValueError("odd")
    with pytest.raises(ValueError, match="odd") as raised:
        fail("reading a reply", error)
    assert raised.value is error
    assert log.records == []


def test_leaving_strictness_forgets_what_was_reported(log):
    fail("reading a reply", ValueError("odd"))
    guard.set_strict(False)
    fail("reading a reply", ValueError("odd"))
    assert [r.levelno for r in log.records] == [logging.WARNING, logging.WARNING]
