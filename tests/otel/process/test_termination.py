"""Signals with their default action, in processes that have a `TerminationHook`."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support.children import with_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

HEAD = """
    import os, signal, socket, sys, threading, time
    from llamatelemetry.otel.process.termination import TerminationHook

    hook = TerminationHook(lambda: print("flushed", flush=True), 5.0)
    own = lambda number, frame: print("own handler", flush=True)
"""


def run(program: str, *, ignored: tuple[int, ...] = ()) -> tuple[str, int]:
    """Run a program. Return its output and exit status."""
    code = textwrap.dedent(HEAD) + textwrap.dedent(program)
    command = with_signals([sys.executable, "-c", code], ignored=ignored)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout, done.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_hook_flushes_before_default_action(number):
    output, status = run(f"""
        signal.signal({int(number)}, signal.SIG_DFL)
        hook.install()
        os.kill(os.getpid(), {int(number)})
        time.sleep(60)
    """)
    assert (output, status) == ("flushed\n", -number)


def test_hook_flushes_after_another_handler_was_restored():
    output, status = run("""
        hook.install()
        before = signal.signal(signal.SIGTERM, own)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("own handler\nflushed\n", -signal.SIGTERM)


@pytest.mark.parametrize(
    "change",
    [
        "signal.signal(signal.SIGTERM, own); hook.install()",
        "hook.install(); signal.signal(signal.SIGTERM, own)",
        "hook.install(); signal.signal(signal.SIGTERM, own); hook.remove()",
    ],
)
def test_handler_of_application_replaces_hook(change):
    output, status = run(f"""
        {change}
        assert signal.getsignal(signal.SIGTERM) is own
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("own handler\n", 0)


def test_hook_leaves_ignored_signals_and_keyboard_interrupt_alone():
    output, status = run(
        """
        hook.install()
        print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        print(signal.set_wakeup_fd(-1))
        """,
        ignored=(signal.SIGHUP,),
    )
    assert (output, status) == ("True\nTrue\n-1\n", 0)


def test_removed_hook_restores_default_action_and_stops_its_thread():
    output, status = run("""
        for _ in range(50):
            hook.install()
            assert threading.active_count() == 2
            hook.remove()
            assert threading.active_count() == 1
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("", -signal.SIGTERM)


def test_removed_hook_that_a_server_restores_performs_default_action():
    output, status = run("""
        hook.install()
        before = signal.signal(signal.SIGTERM, own)
        hook.remove()
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("", -signal.SIGTERM)


def test_hook_removed_in_another_thread_can_be_installed_again():
    output, status = run("""
        hook.install()
        thread = threading.Thread(target=hook.remove)
        thread.start()
        thread.join()
        hook.install()
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("flushed\n", -signal.SIGTERM)


def test_hook_is_not_installed_outside_main_thread():
    output, status = run("""
        thread = threading.Thread(target=hook.install)
        thread.start()
        thread.join()
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, threading.active_count())
    """)
    assert (output, status) == ("True 1\n", 0)


def test_process_ends_when_flush_fails_or_another_handler_raises():
    output, status = run("""
        def raise_error(*_):
            raise TimeoutError

        threading.excepthook = lambda _: None
        hook = TerminationHook(raise_error, 5.0)
        hook.install()
        signal.signal(signal.SIGALRM, raise_error)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("", -signal.SIGTERM)


def test_process_ends_when_flush_does_not_return():
    output, status = run("""
        hook = TerminationHook(lambda: time.sleep(600), 0.1)
        hook.install()
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("", -signal.SIGTERM)


def test_second_signal_does_not_interrupt_flush():
    output, status = run("""
        def flush():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.5)
            print("flushed", flush=True)

        hook = TerminationHook(flush, 30.0)
        hook.install()
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == ("flushed\n", -signal.SIGTERM)


def test_child_flushes_by_itself_and_parent_continues():
    output, status = run("""
        hook.install()
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        print("child", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    """)
    # Without `reinitialize_after_fork`, as between the fork and that call, nothing is flushed.
    assert (output, status) == (f"child {-signal.SIGTERM}\n", 0)


def test_reinitialized_child_flushes():
    output, status = run("""
        hook.install()
        os.register_at_fork(after_in_child=hook.reinitialize_after_fork)
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        print("child", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (output, status) == (f"flushed\nchild {-signal.SIGTERM}\nflushed\n", -signal.SIGTERM)


def test_other_program_that_process_starts_has_default_action():
    program = "import signal; print(signal.getsignal(signal.SIGTERM).name)"
    output, status = run(f"""
        import subprocess
        hook.install()
        print(subprocess.check_output([sys.executable, "-c", {program!r}], text=True), end="")
    """)
    assert (output, status) == ("SIG_DFL\n", 0)


def test_process_one_of_container_survives_signal_as_without_hook():
    terminate = """
        os.kill(os.getpid(), signal.SIGTERM)
        print("alive", os.getpid(), flush=True)
    """
    bare = run_as_process_one(terminate)
    hooked = run_as_process_one("hook.install()", terminate, terminate)
    assert bare == "alive 1\n"
    assert hooked.replace("flushed\n", "") == "alive 1\n" * 2
    assert hooked.startswith("flushed\n")


def run_as_process_one(*parts: str) -> str:
    """Run a program as process 1 of a namespace, which the kernel protects. Return its output."""
    code = "\n".join(map(textwrap.dedent, (HEAD, *parts)))
    command = ["unshare", "--user", "--map-root-user", "--fork", "--pid", sys.executable, "-c"]
    try:
        subprocess.run([*command, "pass"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a PID namespace: {error}")
    done = subprocess.run([*command, code], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout
