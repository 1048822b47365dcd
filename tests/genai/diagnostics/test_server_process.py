"""CPU time, run delay and stopped time of a real server on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llamatelemetry.genai import stop_finalizer
from llamatelemetry.genai.diagnostics.server_process import Sample, Server, ServerSampler, sampler
from tests.support.cpu_limit import cpu_limit
from tests.support.diagnostics import found
from tests.support.llama_server import LlamaServer, embedded_server
from tests.support.recorder import Recorder
from tests.support.scripted_stream import Script, openai_call, scripted_server
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux"),
]
LISTENER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"object":"chat.completion","choices":[]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


class Call:
    """Anything that can be referred to weakly."""


@pytest.fixture
def listener() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.send_signal(signal.SIGCONT)
        process.kill()


@pytest.fixture(autouse=True)
def stopped_afterwards() -> Iterator[None]:
    yield
    assert sampler.stop(10)


def ask(client: Any, text: str, on_chunk: Any = lambda: None) -> None:
    messages: list[Any] = [{"role": "user", "content": text}]
    for _ in client.chat.completions.create(
        model="m", messages=messages, max_tokens=12, stream=True
    ):
        on_chunk()


def test_phases_of_a_real_server_have_its_cpu_time(diagnosed: Recorder, llama_server: LlamaServer):
    warm_up = Call()
    server = sampler.open(llama_server.origin, warm_up)
    assert server is not None
    wait_for(lambda: len(server.samples) > 1)
    with openai.OpenAI(base_url=llama_server.url, api_key="none") as client:
        ask(client, "Count to ten. " * 20)
    (figures,) = found(diagnosed, "server")
    assert len(figures["cpu"]) == len(figures["run_delay"]) == 3
    assert figures["cpu"][1] > 0
    assert all(value >= 0 for value in (*figures["cpu"], *figures["run_delay"]))
    assert "stopped" not in figures


def test_stopped_server_is_told_from_a_busy_one(diagnosed: Recorder, llama_server: LlamaServer):
    warm_up = Call()
    server = sampler.open(llama_server.origin, warm_up)
    assert server is not None
    wait_for(lambda: len(server.samples) > 1)
    is_stopped = threading.Event()

    def stop_once() -> None:
        if is_stopped.is_set():
            return
        is_stopped.set()
        os.kill(llama_server.pid, signal.SIGSTOP)
        count = len(server.samples)
        try:
            wait_for(lambda: len(server.samples) >= count + 4)
        finally:
            os.kill(llama_server.pid, signal.SIGCONT)

    with openai.OpenAI(base_url=llama_server.url, api_key="none") as client:
        ask(client, "Name three rivers.", stop_once)
    (figures,) = found(diagnosed, "server")
    assert sum(figures["stopped"]) > 0


@pytest.mark.needs("cpu-limit")
def test_cpu_limit_of_a_real_server_is_told_from_a_busy_machine(
    diagnosed: Recorder,
):
    with embedded_server() as llama, cpu_limit(llama.pid, share=0.3):
        warm_up = Call()
        server = sampler.open(llama.origin, warm_up)
        assert server is not None
        wait_for(lambda: len(server.samples) > 1)
        with openai.OpenAI(base_url=llama.url, api_key="none") as client:
            while not any("throttled" in each for each in found(diagnosed, "server")):
                ask(client, "Count to ten. " * 20)


def test_server_without_phases_has_one_figure_for_the_attempt(
    diagnosed: Recorder, listener: tuple[Any, str]
):
    _, origin = listener
    warm_up = Call()
    server = sampler.open(origin, warm_up)
    assert server is not None
    wait_for(lambda: len(server.samples) > 1)
    with openai.OpenAI(base_url=f"{origin}/v1", api_key="none") as client:
        client.chat.completions.create(model="m", messages=[])
    (figures,) = found(diagnosed, "server")
    assert [len(figures["cpu"]), len(figures["run_delay"])] == [1, 1]


def test_server_in_this_process_is_not_sampled(diagnosed: Recorder):
    with scripted_server(Script()) as origin:
        openai_call(origin, times=2)
    assert found(diagnosed, "server") == [{}, {}]


@pytest.mark.parametrize("origin", ["http://192.0.2.7:8080", "https://api.openai.com:443", "/sock"])
def test_server_on_another_machine_starts_no_thread(origin: str):
    own = ServerSampler()
    assert own.open(origin, Call()) is None
    assert own._thread is None


def test_server_that_ends_leaves_its_figures_unknown(listener: tuple[Any, str]):
    process, origin = listener
    server = Server(origin)
    server.sample(may_search=True)
    assert len(server.samples) == 1
    process.kill()
    process.wait()
    time.sleep(0.01)  # A newer sample is not taken.
    server.sample(may_search=True)
    assert server._processes == []
    assert server.figures_between([0, 1]) is None
    server.close()


def test_thread_ends_soon_after_the_last_call_and_closes_its_files(listener: tuple[Any, str]):
    _, origin = listener
    own, call = ServerSampler(), Call()
    before = len(list(Path("/proc/self/fd").iterdir()))
    server = own.open(origin, call)
    assert server is not None
    wait_for(lambda: bool(server.samples))
    thread = own._thread
    assert thread is not None
    server.calls.discard(call)
    thread.join(10)
    assert not thread.is_alive()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert own.open(origin, call) is not server
    assert own._thread is not None
    assert own.stop(10)


def test_call_that_begins_while_the_thread_ends_is_sampled(listener: tuple[Any, str]):
    _, origin = listener
    first, second = Call(), Call()
    counts: list[int] = []

    class Ending(ServerSampler):
        def _end(self) -> None:
            if not counts:
                assert self.open(origin, second) is server
                counts.append(len(server.samples))
            super()._end()

    own = Ending()
    server = own.open(origin, first)
    assert server is not None
    wait_for(lambda: bool(server.samples))
    server.calls.discard(first)
    wait_for(lambda: bool(counts) and len(server.samples) > counts[0])
    assert own.stop(10)


def test_server_is_sampled_for_half_a_second_after_the_last_call():
    server, call = Server("http://127.0.0.1:9"), Call()
    assert server.is_in_use()
    server._last_call_s -= 0.6
    assert not server.is_in_use()
    server.calls.add(call)
    assert server.is_in_use()
    server.calls.discard(call)
    assert server.is_in_use()


def test_threads_of_the_package_stop_together(listener: tuple[Any, str]):
    _, origin = listener
    call = Call()
    sampler.open(origin, call)
    assert stop_finalizer(10)
    assert "llamatelemetry-server-sampler" not in [each.name for each in threading.enumerate()]


def test_forked_child_has_no_servers_and_the_parent_goes_on(listener: tuple[Any, str]):
    _, origin = listener
    call = Call()
    server = sampler.open(origin, call)
    assert server is not None
    wait_for(lambda: bool(server.samples))
    pid = os.fork()
    if pid == 0:
        is_reset = not sampler._servers and sampler._thread is None
        os._exit(0 if is_reset and sampler.open(origin, call) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    count = len(server.samples)
    wait_for(lambda: len(server.samples) > count)


def test_figures_are_interpolated_between_samples():
    server, second = Server("http://127.0.0.1:1"), 10**9
    server.samples.extend(
        [
            Sample(0, 0, 0, 0),
            Sample(second, second, 0, second // 2),
            Sample(2 * second, *[second] * 3, second // 4),
        ]
    )
    halves = server.figures_between([0, second // 2, second, 3 * second])
    assert halves == [(0.5, 0.0, 0.25, 0.0), (0.5, 0.0, 0.25, 0.0), (0.0, 1.0, 0.5, 0.25)]
    assert server.figures_between([-second, second]) is None


def test_sampling_leaves_the_machine_alone(listener: tuple[Any, str]):
    """One pass reads some open files: the interval grows with the time that this takes."""
    _, origin = listener
    server = Server(origin)
    server.sample(may_search=True)
    searched = server._search_at_s
    server.sample(may_search=True)
    assert server._search_at_s == searched >= time.monotonic()
    server.close()


@pytest.mark.needs("gevent")
def test_greenlets_are_diagnosed_like_threads(listener: tuple[Any, str]):
    _, origin = listener
    done = subprocess.run(
        [sys.executable, "-m", "tests.genai.diagnostics.greenlet_program", origin],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["stopped"]
    assert len(output["names"]) == 8
    assert all("llamatelemetry.client.sent" in names for names in output["names"])
    assert any("llamatelemetry.server.cpu" in names for names in output["names"])
