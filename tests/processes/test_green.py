"""Programs with greenlets: gevent and eventlet replace threads and locks while they run."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import queue
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.test_workers import (
    HERE,
    IN_CODE,
    INSTRUMENT,
    Seen,
    environment,
)
from tests.support.components import require
from tests.support.model_server import model_server
from tests.support.otlp_receiver import http_receiver
from tests.support.selection import slow_except

ROOT = Path(__file__).parents[2]
PATCH = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"
# The library, when it replaces threads, and further variables.
PROGRAMS = {
    "gevent in the program": ("gevent", "first", {}),
    "gevent after a stream": ("gevent", "after a stream", {}),
    "gevent by OpenTelemetry's variable": ("gevent", "elsewhere", {PATCH: "patch_all"}),
    "gevent before init in code": ("gevent", "first", IN_CODE),
    "gevent after init in code": ("gevent", "after init", IN_CODE),
    "eventlet in the program": ("eventlet", "first", {}),
    "eventlet before init in code": ("eventlet", "first", IN_CODE),
    "eventlet after init in code": ("eventlet", "after init", IN_CODE),
}
FAST = {"gevent in the program", "eventlet in the program"}


@pytest.mark.parametrize("program", slow_except(FAST, PROGRAMS))
def test_program_with_greenlets_exports_all_calls(program):
    library, when, variables = PROGRAMS[program]
    require(library)
    command = [sys.executable, "green.py", library, when]
    with model_server() as model, http_receiver() as received:
        done = subprocess.run(
            command if variables is IN_CODE else [INSTRUMENT, *command],
            cwd=HERE,
            env=environment(received, model, **variables),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        made = Counter({int(pid): n for pid, n in json.loads(done.stdout).items()})
        assert made.total() == 5 + (when == "after a stream")
        Seen(received).check(made)


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
    "_Queue._lock": "reentrant: all greenlets are one thread",
    "_RedactedAttributes._lock": "OpenTelemetry's, held while it changes a dictionary",
    "_State.lock": "held during system calls for a local file",
    "llamatelemetry.otel._sdk_private._all_spans": "held while a span is redacted",
}


def early_primitives() -> list[str]:
    """Return the primitives of llamatelemetry's objects, classes and modules after a set-up."""
    import llamatelemetry

    llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True, sampling="only_slow")
    importlib.import_module("openai")
    kinds = (
        *(type(threading.Lock()), type(threading.RLock()), threading.Event, threading.Condition),
        *(threading.Semaphore, threading.Thread, threading.local, queue.Queue, queue.SimpleQueue),
    )
    holders: dict[str, list[object]] = {}
    for item in gc.get_objects():
        kind = type(item)
        if str(kind.__module__).startswith("llamatelemetry"):
            holders.setdefault(kind.__name__, []).append(item)
    for name, module in list(sys.modules.items()):
        if name.startswith("llamatelemetry"):
            holders[name] = [module]
            for kind in vars(module).values():
                if isinstance(kind, type) and kind.__module__ == name:
                    holders.setdefault(kind.__name__, []).append(kind)
    return sorted(
        {
            f"{name}.{attribute}"
            for name, found in holders.items()
            for holder in found
            for attribute, value in members(holder)
            if isinstance(value, kinds)
        }
    )


def members(holder: object) -> Iterator[tuple[str, object]]:
    yield from list(getattr(holder, "__dict__", {}).items())
    for base in type(holder).__mro__:
        for name in getattr(base, "__slots__", ()):
            with contextlib.suppress(AttributeError):
                yield name, getattr(holder, name)


def test_primitives_from_before_greenlets_are_known():
    code = "from tests.processes import test_green as t; print('\\n'.join(t.early_primitives()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
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
