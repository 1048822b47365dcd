"""Greenlets: no lock from before gevent or eventlet replaced threads and locks blocks them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Locks, queues, events, threads and thread-locals that exist before a program can replace them,
# and why a greenlet does not wait for one of them. No greenlet switches within a section of code
# that only changes variables, files or the state of a driver.
EARLY = {
    "BackgroundLoop._stopping": "created with its thread",
    "BackgroundLoop._thread": "the thread; a greenlet only joins it, with a time limit",
    "BackgroundLoop._woken": "created with its thread",
    "BackgroundLoop.in_pass": "held during queries of the driver",
    "DelegatingMeter._instrument_ids_lock": "OpenTelemetry's, held while it changes a set",
    "EnergyLedger._lock": "held while it changes variables",
    "ForkSafeLock._lock": "reentrant: all greenlets are one thread; registries, patches, set-up",
    "History._lock": "held while it changes variables",
    "TailSampler._lock": "held while it changes variables",
    "TerminationHook._thread": "the thread; native, as is the lock that a signal handler waits for",
    "_Counting.lock": "held while it changes a number or a deque, or copies one",
    "_Queue._lock": "reentrant: all greenlets are one thread",
    "_RedactedAttributes._lock": "OpenTelemetry's, held while it changes a dictionary",
    "_State.lock": "held during system calls for a local file",
    "llamatelemetry.otel._sdk_private._all_spans": "held while a span is redacted",
}


def test_primitives_from_before_greenlets_are_known():
    done = subprocess.run(
        [sys.executable, "early_primitives.py"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= EARLY.keys()


@pytest.mark.needs("gevent")
def test_finalizer_waits_for_lock_of_gevent_after_patch():
    code = """
        import warnings
        warnings.simplefilter("ignore")
        import llamatelemetry
        llamatelemetry.init("shop", exporter="none")
        from gevent import monkey
        monkey.patch_all()
        from llamatelemetry.genai.streams.abandoned_calls import finalizer
        finalizer.start()
        print(type(finalizer._worker._woken).__module__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "gevent.thread", done.stderr
