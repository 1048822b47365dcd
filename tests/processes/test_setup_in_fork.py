"""A process that is forked while another thread sets telemetry up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import os, sys, threading, time
    import llamatelemetry

    setup = threading.Thread(target=lambda: llamatelemetry.init("shop", exporter="none"))
    setup.start()
    time.sleep(float(sys.argv[1]))
    child = os.fork()
    if child == 0:
        llamatelemetry.init("shop", exporter="none")
        os._exit(0)
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.5])
def test_init_in_child_forked_during_init_does_not_hang(after_s):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(after_s)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
