"""Flush telemetry when a signal ends the process.

The default action of SIGTERM and SIGHUP ends a process at once, without `atexit` handlers. A signal
that has its default action gets a handler here, which flushes within a time limit and then
performs the default action, so that the exit status stays the same.

Python runs signal handlers in the main thread between two instructions, so not while that thread
is inside native code. The process must still end: a handler of `faulthandler`, which runs at once,
notifies a thread, which flushes and ends the process if the main thread does not.
`signal.set_wakeup_fd` does not suit this purpose. It also reports signals that the application
handles, asyncio and trio use it, and a process has only one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from llamatelemetry.otel.process.forking import has_green_threads

# A native lock also if gevent or eventlet replaces locks later: the thread is a native one, too.
_new_lock: Final = threading.Lock
_NAMES: Final = ("SIGTERM", "SIGHUP", "SIGINT")
# How much longer than the flush the main thread waits for the thread that flushes.
_MARGIN_S: Final = 1.0
_CREDENTIALS: Final = struct.Struct("3i")  # process, user and group of the writer


class TerminationHook:
    """Calls a function before a signal's default action ends the process.

    A handler that the application sets replaces this one. Nothing is installed outside the main
    thread, on Windows, and under gevent or eventlet, whose threads do not run while a signal
    handler waits.

    Args:
        on_signal: Function that flushes. It runs in a thread, because the main thread may hold
            any lock when the signal arrives.
        limit_s: Time limit of the function in seconds. The main thread waits a little longer.
    """

    def __init__(self, on_signal: Callable[[], object], limit_s: float) -> None:
        self._on_signal = on_signal
        self._limit_s = limit_s
        self._mailboxes: dict[int, _Mailbox] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._done: Any = None
        self._first = 0  # the signal that the thread flushes for
        self._pid = 0

    def install(self) -> None:
        """Handle each of the signals that has its default action."""
        if self._thread is not None or not _can_handle_signals():
            return
        numbers = [getattr(signal, name) for name in _NAMES]
        numbers = [
            each
            for each in numbers
            if signal.getsignal(each) is signal.SIG_DFL or self._is_handler_of(each)
        ]
        for number in numbers:
            self._mailboxes.setdefault(number, _Mailbox())
        if not numbers or not self._start_thread():
            return
        for number in numbers:
            signal.signal(number, self.handle)
            self._register_with_faulthandler(number)

    def remove(self) -> None:
        """Restore the default action where this hook is still the handler. Stop the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if threading.current_thread() is threading.main_thread():
            for number in filter(self._is_handler_of, self._mailboxes):
                if _SET_HANDLER is not None:
                    faulthandler.unregister(number)
                signal.signal(number, signal.SIG_DFL)
        self._stopping = True
        next(iter(self._mailboxes.values())).send()
        thread.join(_MARGIN_S)
        if not thread.is_alive():
            for mailbox in self._mailboxes.values():
                mailbox.close()

    def reinitialize_after_fork(self) -> None:
        """Start the thread of a forked child, which inherits the handlers.

        Not under gevent or eventlet, where starting a thread switches to the parent's greenlets. The
        handlers then perform the default action at once.
        """
        if self._thread is None:
            return
        self._done, self._first = None, 0
        if has_green_threads() or not self._start_thread():
            self._thread = None

    def handle(self, number: int, _frame: object = None) -> None:
        """Handle a signal: wait for the flush, then perform the default action."""
        if self._done is not None:
            return  # Another signal arrived during the flush for the first one.
        try:
            # Unlike an `Event`, a new lock has no parts that the interrupted code may hold.
            done = self._done = _new_lock()
            done.acquire()
            if self._thread is not None and self._pid == os.getpid():
                self._mailboxes[number].send()
                done.acquire(timeout=self._limit_s + _MARGIN_S)
        finally:
            # Also if the handler of another signal raised an exception meanwhile. Python runs
            # handlers in the order of their numbers, not of the signals' arrival.
            number = self._first or number
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            # Only process 1 of a container continues: the kernel does not end it.
            signal.signal(number, self.handle)
            self._done, self._first = None, 0

    def _start_thread(self) -> bool:
        self._pid = os.getpid()
        self._stopping = False
        for mailbox in self._mailboxes.values():
            mailbox.renew()
        thread = threading.Thread(target=self._run, name="llamatelemetry-signals", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The process may not start another thread.
            return False
        self._thread = thread
        return True

    def _register_with_faulthandler(self, number: int) -> None:
        if _SET_HANDLER is not None:
            faulthandler.register(number, self._mailboxes[number].fd, all_threads=False, chain=True)

    def _run(self) -> None:
        served: Any = None
        with selectors.DefaultSelector() as selector:
            for number, mailbox in self._mailboxes.items():
                selector.register(mailbox, selectors.EVENT_READ, number)
            while True:
                ready = [key.data for key, _ in selector.select()]
                numbers = [number for number in ready if self._mailboxes[number].receive()]
                if self._stopping:
                    return
                # One signal notifies twice: by faulthandler and by `handle`.
                if numbers and (served is None or self._done is not served):
                    self._first = numbers[0]
                    try:
                        self._on_signal()
                    finally:
                        served = self._finish(numbers[0])

    def _finish(self, number: int) -> Any:
        """End the process, or let `handle` end it. Return the lock that `handle` waits for."""
        done = self._done
        if done is not None:
            # The main thread waits in `handle`, and ends the process.
            with contextlib.suppress(RuntimeError):
                done.release()
        elif _SET_HANDLER is not None and self._is_handler_of(number):
            # It runs native code.
            before = _SET_HANDLER(number, int(signal.SIG_DFL))
            os.kill(os.getpid(), number)
            # Only process 1 of a container continues: the kernel does not end it.
            _SET_HANDLER(number, before)
        if done is None:
            self._first = 0
        return done

    def _is_handler_of(self, number: int) -> bool:
        return signal.getsignal(number) == self.handle


class _Mailbox:
    """A pair of sockets: signal handlers write to one, a thread reads the other.

    The file descriptor `fd` stays open and keeps its number, because faulthandler remembers it.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._inbox: socket.socket | None = None

    def renew(self) -> None:
        """Replace the sockets. Old ones may hold old messages, or be the parent's, too."""
        self.close()
        inbox, outbox = socket.socketpair()
        inbox.setblocking(False)
        outbox.setblocking(False)
        if hasattr(socket, "SO_PASSCRED"):
            inbox.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._inbox = inbox
        if self.fd < 0:
            self.fd = outbox.detach()
        else:
            with outbox:
                os.dup2(outbox.fileno(), self.fd, inheritable=False)

    def fileno(self) -> int:
        """Return the file descriptor to read."""
        return -1 if self._inbox is None else self._inbox.fileno()

    def close(self) -> None:
        """Close the reading end."""
        if self._inbox is not None:
            self._inbox.close()
            self._inbox = None

    def send(self) -> None:
        """Notify the thread. A full buffer notifies it, too."""
        with contextlib.suppress(OSError):
            os.write(self.fd, b"\n")

    def receive(self) -> bool:
        """Read everything. Return whether any of it was written by this process.

        A child can receive a signal while it still shares the sockets. The kernel adds the
        process id of the writer.
        """
        received = False
        if self._inbox is None:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._inbox.recvmsg(
                    4096, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
                writers = [_CREDENTIALS.unpack_from(each)[0] for _, _, each in ancillary]
                received = received or not writers or os.getpid() in writers
                if not data:
                    break
        return received


def _can_handle_signals() -> bool:
    is_in_main_thread = threading.current_thread() is threading.main_thread()
    return sys.platform != "win32" and is_in_main_thread and not has_green_threads()


def _handler_setter() -> Callable[[int, int | None], int | None] | None:
    """Return a function that sets a signal's handler in any thread; `None` if there is none.

    `signal.signal` works only in the main thread. It is `PyOS_setsig` of Python's C API. It is
    used on Linux only, where the writer of a notification is known.
    """
    if not hasattr(socket, "SO_PASSCRED"):
        return None
    try:
        import ctypes

        function = ctypes.pythonapi["PyOS_setsig"]
    except (ImportError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_void_p)
    function.restype = ctypes.c_void_p
    return function


_SET_HANDLER: Final = _handler_setter()
