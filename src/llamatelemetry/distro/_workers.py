"""Telemetry in the worker processes of a server or a pool: each with its own identity."""

from __future__ import annotations

import functools
import os
import weakref
from typing import TYPE_CHECKING

from llamatelemetry.genai import internal_errors
from llamatelemetry.otel.forking import WorkerEnd

if TYPE_CHECKING:
    from ._setup import Setup


class _Current:
    setup: weakref.ref[Setup] | None = None


def follow_forks(setup: Setup) -> None:
    """Lets `setup` go on in the children of this process, and end well in pool workers."""
    _Current.setup = weakref.ref(setup)
    _watch_forks()
    _worker_end.expect()


@functools.cache
def _watch_forks() -> None:
    # Once: handlers cannot be taken back.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_go_on)


def _current() -> Setup | None:
    return _Current.setup() if _Current.setup is not None else None


def _go_on() -> None:
    setup = _current()
    if setup is None:
        return
    try:
        setup.go_on_in_child()
        _worker_end.expect()
    except Exception as error:
        internal_errors.log_once("setting up a forked process", error)


def _send_the_rest() -> None:
    setup = _current()
    if setup is None:
        return
    try:
        setup.send_the_rest()
    except Exception as error:
        internal_errors.log_once("sending what a worker has left", error)


_worker_end = WorkerEnd(_send_the_rest)
