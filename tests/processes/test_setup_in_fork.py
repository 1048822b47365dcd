"""A process that is forked while another thread sets telemetry up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.processes.observed_processes import Seen, environment, receiver

PROGRAM = textwrap.dedent("""
    import os, sys, threading, time
    import llamatelemetry

    setup = threading.Thread(target=lambda: llamatelemetry.init("shop", exporter="none"))
    setup.start()
    time.sleep(float(sys.argv[1]))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        llamatelemetry.init("shop", exporter="none")
        os._exit(0)
    if time.monotonic() - started > 10:
        os.kill(child, 9)
        sys.exit("set-up takes too long")
    setup.join()
    until = time.monotonic() + 60
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            os._exit(os.waitstatus_to_exitcode(status))
        if time.monotonic() > until:
            os.kill(child, 9)
            sys.exit("the child hangs")
        time.sleep(0.01)
""")


# The set-up of a test takes a tenth of a second, also on a slow machine.
FORK_BESIDE_SETUP = textwrap.dedent("""
    import os, threading, time
    from llamatelemetry._setup_in_progress import setup_in_progress
    import logging
    from concurrent.futures import ThreadPoolExecutor

    begun, ended = threading.Event(), threading.Event()

    def set_up():
        with setup_in_progress():
            begun.set()
            time.sleep(0.1)
            logging.getLogger("new")
            with ThreadPoolExecutor(1) as pool:
                pool.submit(int).result()
            ended.set()

    thread = threading.Thread(target=set_up)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if ended.is_set() else 1)  # as it was at the fork
    thread.join()
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_fork_waits_for_a_setup_without_the_locks_that_the_setup_needs():
    # A fork that has such a lock gives up after 10 seconds, before the set-up has ended.
    command = [sys.executable, "-W", "ignore", "-c", FORK_BESIDE_SETUP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
# Without a pause, the thread may still be importing.
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.5])
def test_init_in_child_forked_during_init_does_not_hang(after_s):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(after_s)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    if "set-up takes too long" in done.stderr:
        pytest.skip("a fork waits for 10 seconds; the set-up takes longer on this machine")
    assert (done.returncode, done.stderr) == (0, "")


# The handler runs before those of the SDK and of llamatelemetry, as a thread that they start can.
EARLY_FLUSH = """
import os
import llamatelemetry
from opentelemetry import trace

os.register_at_fork(after_in_child=lambda: trace.get_tracer_provider().force_flush())
llamatelemetry.init("shop")
trace.get_tracer("test").start_span("of the parent").end()
child = os.fork()
if child == 0:
    trace.get_tracer("test").start_span("of the child").end()
    llamatelemetry.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_child_sends_nothing_under_the_identity_of_its_parent():
    with receiver() as received:
        subprocess.run(
            [sys.executable, "-c", EARLY_FLUSH],
            env=environment(received, "http://127.0.0.1:9"),
            check=True,
            timeout=100,
        )
        assert sorted(received.spans()) == ["of the child", "of the parent"]
        pids, instances = zip(*Seen(received).identities, strict=True)
    assert len(set(pids)) == len(set(instances)) == 2
