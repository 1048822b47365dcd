"""`ServerManager` with a program that can do everything wrong that a server can do."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.genai import known_servers, server_of
from llamatelemetry.llama import (
    PortTakenError,
    ServerConfig,
    ServerCrashedError,
    ServerManager,
    ServerManagerError,
    ServerNotFoundError,
    StartupTimeoutError,
    UnsupportedOptionError,
)
from llamatelemetry.llama._launch import Launch
from llamatelemetry.llama._listening import Address
from llamatelemetry.llama._server_log import ServerLog
from llamatelemetry.llama.binary import Binary
from tests.children import with_signals
from tests.llama.fake_server import NEW, OLD, faults, make_server
from tests.llama.test_embedded import is_gone, wait_until_gone
from tests.recorder import Recorder

pytestmark = pytest.mark.needs("ps")
PS = shutil.which("ps")  # some tests change PATH


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF and general.pooling_type")
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return make_server(tmp_path, NEW)


@pytest.fixture
def manager(model: Path, program: Path) -> Iterator[Callable[..., ServerManager]]:
    """Makes managers, and checks in the end that nothing of them is left."""
    made: list[ServerManager] = []
    threads = set(threading.enumerate())

    def make(*, binary: object = program, fault: dict | None = None, **fields) -> ServerManager:
        env = {**faults(**(fault or {})), **fields.pop("env", {})}
        config = ServerConfig(model, **{"port": 0, **fields}, env=env)
        made.append(ServerManager(config, binary=binary))
        return made[-1]

    yield make
    for each in made:
        each.stop()
    assert processes_of(program) == []
    assert set(threading.enumerate()) <= threads


def processes_of(program: Path) -> list[int]:
    listed = subprocess.run([PS, "-ww", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    lines = [line.split(None, 1) for line in listed.splitlines()]
    return [int(pid) for pid, command in lines if str(program) in command]


def wait_until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class TestRunning:
    def test_starts_answers_and_stops(self, manager):
        server = manager(n_parallel=2)
        with server as entered:
            assert entered is server
            assert server.is_healthy()
            with urllib.request.urlopen(f"{server.url}/props") as answer:
                assert json.load(answer)["total_slots"] == 2
            pid = server.pid
            assert not is_gone(pid)
        assert is_gone(pid)
        assert not server.is_healthy()
        assert any("server is listening" in line for line in server.logs())
        for read in (lambda: server.url, lambda: server.pid):
            with pytest.raises(ServerManagerError, match="not running"):
                read()

    def test_stops_twice_and_starts_again_at_the_same_address(self, manager):
        server = manager().start()
        url, pid = server.url, server.pid
        assert server.restart() is server
        assert (server.url, server.pid == pid) == (url, False)
        assert is_gone(pid)
        server.stop()
        server.stop()
        assert server.start().url == url
        with pytest.raises(RuntimeError, match="started already"):
            server.start()

    def test_several_run_at_once(self, manager):
        servers = [manager().start() for _ in range(3)]
        assert len({server.url for server in servers}) == 3
        assert all(server.is_healthy() for server in servers)
        servers[1].stop()
        assert [server.is_healthy() for server in servers] == [True, False, True]

    def test_tells_how_it_is_coming_along(self, manager):
        lines: list[str] = []
        manager(fault={"load_s": 0.5}).start(lines.append)
        assert "srv    load_model: loading model" in lines

    def test_an_old_server_is_told_in_old_words(self, manager, tmp_path: Path):
        binary = make_server(tmp_path, OLD, name="old-server")
        record = tmp_path / "record"
        env = {"FAKE_RECORD": str(record)}
        manager(binary=binary, env=env, mlock=True, mmap=False, flash_attn=True).start()
        argv = json.loads(record.read_text())["argv"]
        assert {"--mlock", "--no-mmap", "--flash-attn", "999"} <= set(argv)

    def test_logs_hands_out_the_last_lines(self, manager):
        server = manager(fault={"log": ["one", "two"]}).start()
        assert server.logs()[:2] == ["one", "two"]
        assert server.logs(0) == []
        assert len(server.logs(1)) == 1

    def test_logs_go_to_a_file_as_well(self, manager, tmp_path: Path):
        server = manager(fault={"log": ["ümlaut", "two"]})
        server.log_to(tmp_path / "server.log")
        server.start()
        server.restart()
        server.stop()
        text = (tmp_path / "server.log").read_text()
        assert text.count("ümlaut\ntwo\n") == 2

    def test_a_folder_of_models_is_served_by_a_router(self, program, model: Path):
        config = ServerConfig(model.parent, port=0)
        with ServerManager(config, binary=program) as server:
            assert server.is_healthy()

    def test_a_prefix_of_the_paths_belongs_to_the_address(self, manager):
        server = manager(extra_args=["--api-prefix", "/llm"]).start()
        assert server.url.endswith("/llm")
        assert server.is_healthy()

    @pytest.mark.needs("openssl")
    def test_a_certificate_makes_it_https(self, manager, tmp_path: Path):
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {key} -out {certificate}"
        subprocess.run(shlex.split(make), check=True, capture_output=True)
        files = ["--ssl-key-file", str(key), "--ssl-cert-file", str(certificate)]
        server = manager(extra_args=files).start()
        assert server.url.startswith("https://127.0.0.1:")
        assert server.is_healthy()

    def test_every_address_is_reached_by_loopback(self, manager):
        assert manager(host="0.0.0.0").start().url.startswith("http://127.0.0.1:")

    def test_a_program_that_leaves_the_work_to_another_is_no_stranger(
        self, manager, program, tmp_path: Path
    ):
        wrapper = tmp_path / "wrapper"
        wrapper.write_text(f'#!/bin/sh\n"{program}" "$@"\nexit $?\n')
        wrapper.chmod(0o755)
        server = manager(binary=wrapper).start()
        assert server.is_healthy()
        server.stop()
        assert processes_of(program) == []


class TestSecrets:
    def test_the_key_is_in_the_environment_and_not_in_argv_or_log(self, manager, tmp_path: Path):
        record = tmp_path / "record"
        server = manager(
            api_key="sk-hidden",
            env={"FAKE_RECORD": str(record)},
            fault={"log": ["api_keys: sk-hidden"]},
        ).start()
        started = json.loads(record.read_text())
        assert "sk-hidden" not in " ".join(started["argv"])
        assert started["env"]["LLAMA_API_KEY"] == "sk-hidden"
        shown = subprocess.run([PS, "-ww", "-eo", "args="], capture_output=True, text=True).stdout
        assert "sk-hidden" not in shown
        assert server.logs()[0] == "api_keys: ***"

    def test_a_server_that_takes_keys_from_argv_only_is_refused(self, manager, tmp_path: Path):
        options = [option for option in NEW if "--api-key" not in option.names]
        binary = make_server(tmp_path, options, name="no-key-variable")
        with pytest.raises(UnsupportedOptionError, match="where everybody can read"):
            manager(binary=binary, api_key="sk-hidden").start()

    def test_settings_of_another_server_do_not_reach_it(
        self, manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for name in ("LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_MODEL", "LLAMA_LOG_FILE", "LLAMA_API_KEY"):
            monkeypatch.setenv(name, "stray")
        monkeypatch.setenv("KEPT", "yes")
        record = tmp_path / "record"
        manager(env={"FAKE_RECORD": str(record), "LLAMA_ARG_PRIO": "1"}).start()
        env = json.loads(record.read_text())["env"]
        assert [name for name in env if name.startswith("LLAMA_")] == ["LLAMA_ARG_PRIO"]
        assert env["KEPT"] == "yes"


class TestFaults:
    def test_dies_while_loading(self, manager):
        server = manager(fault={"load_s": 0.1, "dies": "invalid magic"})
        with pytest.raises(ServerCrashedError) as raised:
            server.start()
        assert str(raised.value).splitlines() == [
            "the llama.cpp server ended with exit status 1 before it was ready; its last log lines:",
            "srv    load_model: loading model",
            "llama_model_load: error loading model: invalid magic",
        ]
        assert raised.value.exit_code == 1
        assert not server.is_healthy()

    def test_killed_while_loading(self, manager):
        server = manager(fault={"load_s": 0.1, "kills_itself": signal.SIGKILL})
        with pytest.raises(ServerCrashedError, match="ended by SIGKILL before it was") as raised:
            server.start()
        assert raised.value.log_lines[-1] == "the last words"
        assert raised.value.exit_code == -signal.SIGKILL

    def test_whose_model_is_gone(self, manager, model: Path):
        server = manager()
        data = model.read_bytes()
        model.unlink()
        with pytest.raises(ServerManagerError, match=f"the model is gone: {model}"):
            server.start()
        model.write_bytes(data)
        assert server.start().is_healthy()

    def test_refuses_an_argument(self, manager):
        with pytest.raises(ServerCrashedError, match="error: invalid argument: --no-such"):
            manager(extra_args=["--no-such"]).start()

    def test_takes_too_long(self, manager, program):
        server = manager(fault={"load_s": 600}, startup_timeout_s=0.5)
        with pytest.raises(StartupTimeoutError, match=r"not ready after 0\.5 s") as raised:
            server.start()
        assert raised.value.log_lines == ("srv    load_model: loading model",)
        assert processes_of(program) == []

    def test_interrupted_while_loading_is_ended(self, manager, program):
        server = manager(fault={"load_s": 600})

        def interrupt(_line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            server.start(interrupt)
        assert processes_of(program) == []

    def test_stopped_by_another_thread_while_loading(self, manager):
        server = manager(fault={"load_s": 600})
        stopper = threading.Timer(0.5, server.stop)
        stopper.start()
        with pytest.raises(ServerManagerError):
            server.start()
        stopper.join()

    def test_port_taken_by_something_else(self, manager):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(PortTakenError, match=rf"port {port} is taken: .*port=0"):
                manager(port=port).start()

    def test_two_on_one_port(self, manager):
        first = manager().start()
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(PortTakenError):
            manager(port=port).start()
        assert first.is_healthy()

    def test_a_stranger_that_says_ok_is_not_taken_for_the_server(self, manager):
        """It takes the port after it was found free, and before the server does."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        strangers: list[ServerManager] = []

        def come_first(_line: str) -> None:
            if not strangers:
                strangers.append(manager(port=port).start())

        server = manager(port=port, fault={"silent": True}, startup_timeout_s=2)
        with pytest.raises(StartupTimeoutError):
            server.start(come_first)
        assert strangers[0].is_healthy()

    def test_that_comes_second_to_a_port_says_that_it_is_taken(self, manager):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        strangers: list[ServerManager] = []

        def come_first(_line: str) -> None:
            if not strangers:
                strangers.append(manager(port=port).start())

        with pytest.raises(PortTakenError, match="couldn't bind HTTP server socket"):
            manager(port=port, fault={"binds_after_s": 2}).start(come_first)

    def test_a_free_port_taken_meanwhile_is_left_for_another(self, manager):
        server = manager().start()
        url = server.url
        server.stop()
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
            assert server.start().url != url

    def test_dies_later(self, manager, caplog: pytest.LogCaptureFixture):
        server = manager(fault={"crashes_after_s": 1.0})
        with caplog.at_level(logging.ERROR, "llamatelemetry.llama"):
            server.start()
            pid = server.pid
            wait_until(lambda: caplog.records)
        (record,) = caplog.records
        assert f"process {pid}) was ended by SIGABRT" in record.message
        assert record.message.endswith("GGML_ASSERT failed: the last words")
        assert not server.is_healthy()
        with pytest.raises(ServerCrashedError, match="the last words"):
            _ = server.url
        assert server.restart().pid != pid

    def test_can_be_started_again_when_it_has_died(self, manager, caplog):
        server = manager().start()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: caplog.records)
        assert server.start().is_healthy()

    def test_stopping_it_is_no_crash(self, manager, caplog: pytest.LogCaptureFixture):
        manager().start().stop()
        assert caplog.records == []

    def test_killed_while_streaming(self, manager, caplog: pytest.LogCaptureFixture):
        server = manager().start()
        with urllib.request.urlopen(f"{server.url}/stream") as stream:
            assert stream.readline() == b"data: {}\n"
            os.kill(server.pid, signal.SIGKILL)
            while stream.read(100):
                pass
        wait_until(lambda: caplog.records)
        assert "ended by SIGKILL" in caplog.text

    def test_started_by_a_thread_that_blocks_signals(self, manager, caplog):
        """As a program does that waits for its signals in one thread."""
        blocked = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            server = manager().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: caplog.records)
        assert "ended" in caplog.text
        assert not server.is_healthy()

    @pytest.mark.slow
    def test_hung_is_not_healthy_and_is_stopped_by_force(self, manager):
        server = manager(fault={"ignores_term": True}).start()
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        assert not server.is_healthy()
        started = time.monotonic()
        server.stop(timeout_s=0.3)
        assert time.monotonic() - started < 5
        assert is_gone(pid)

    def test_that_ignores_sigterm_is_killed(self, manager):
        server = manager(fault={"ignores_term": True}).start()
        pid = server.pid
        server.stop(timeout_s=0.3)
        assert is_gone(pid)

    def test_what_the_server_started_ends_with_it(self, manager, program):
        server = manager(fault={"helper": True}).start()
        assert len(processes_of(program)) >= 2
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: processes_of(program) == [])

    @pytest.mark.slow
    def test_what_ran_away_from_it_does_not_hold_up_its_end(self, model, program):
        config = ServerConfig(model, port=0, env=faults(helper="runs away"))
        server = ServerManager(config, binary=program).start()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 8
        (stray,) = processes_of(program)
        os.kill(stray, signal.SIGKILL)

    def test_without_its_watchdog_it_is_ended(self, manager, program, caplog):
        server = manager().start()
        (watchdog,) = set(processes_of(program)) - {server.pid}
        os.kill(watchdog, signal.SIGKILL)
        wait_until(lambda: caplog.records)
        assert "was lost together with its watchdog" in caplog.text
        wait_until(lambda: processes_of(program) == [])

    @pytest.mark.parametrize(("size", "line"), [(3_000_000, 200), (3_000_000, 3_000_000)])
    def test_flood_of_logs_does_not_stop_it(self, manager, size: int, line: int):
        server = manager(fault={"flood_bytes": size, "flood_line": line}).start()
        wait_until(lambda: server.logs(1) == ["the flood is over"], 60)
        assert server.is_healthy()
        assert sum(map(len, server.logs())) < 2_000_000

    @pytest.mark.slow
    def test_flood_of_100_megabytes(self, manager, tmp_path: Path):
        server = manager(fault={"flood_bytes": 100_000_000, "crashes_after_s": 0})
        server.log_to(tmp_path / "server.log")
        server.start()
        with pytest.raises(ServerCrashedError) as raised:
            wait_until(lambda: server.url == "the crash is noted", 100)
        assert raised.value.log_lines[-2:] == (
            "the flood is over",
            "GGML_ASSERT failed: the last words",
        )
        assert (tmp_path / "server.log").stat().st_size > 100_000_000


class TestLog:
    def test_lines_without_an_end_take_no_memory(self):
        log = ServerLog()
        tracemalloc.start()
        try:
            for _ in range(200):
                log.feed(b"x" * 65536)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken < 1_000_000
        log.close()
        assert log.lines() == ["x" * 8192]

    def test_long_lines_are_cut(self):
        log = ServerLog()
        log.feed(b"x" * 60000 + b"\nnext")
        log.close()
        assert list(map(len, log.lines())) == [8192, 4]

    def test_a_line_comes_whole_however_it_is_read(self):
        log = ServerLog()
        for part in ("one\ntw", "o\n", "ü"):
            log.feed(part.encode()[:-1])
            log.feed(part.encode()[-1:])
        log.close()
        assert log.lines() == ["one", "two", "ü"]

    def test_flags_are_shown_without_secrets_and_folders(self):
        flags = ("--hf-token", "hf_1", "--api-key-file=/a/b", "-m", "/home/me/m.gguf", "-ngl", "-1")
        launch = Launch(("x",), {}, flags, Address("127.0.0.1", 1), Binary(None, ""))
        assert launch.shown_flags() == [
            "--hf-token ***",
            "--api-key-file ***",
            "-m m.gguf",
            "-ngl -1",
        ]


class TestBinary:
    def test_argument_then_variable_then_path(self, manager, tmp_path: Path, monkeypatch):
        folders = [tmp_path / name for name in ("argument", "variable", "path")]
        programs = []
        for folder in folders:
            folder.mkdir()
            programs.append(make_server(folder, NEW))
        record = tmp_path / "record"

        def started(binary: object) -> str:
            record.unlink(missing_ok=True)
            manager(binary=binary, env={"FAKE_RECORD": str(record)}).start().stop()
            return json.loads(record.read_text())["argv"][0].removesuffix(".py")

        monkeypatch.setenv("PATH", f"{folders[2]}:{os.environ['PATH']}")
        assert started(None) == str(programs[2])
        monkeypatch.setenv("LLAMA_SERVER_PATH", str(folders[1]))
        assert started(None) == str(programs[1])
        assert started(str(programs[0])) == str(programs[0])

    def test_that_was_named_and_is_not_there_is_an_error(self, manager, tmp_path, monkeypatch):
        with pytest.raises(ServerNotFoundError, match="binary: no program '/no/such'"):
            manager(binary="/no/such").start()
        plain = tmp_path / "plain"
        plain.touch()
        monkeypatch.setenv("LLAMA_SERVER_PATH", str(plain))
        with pytest.raises(ServerNotFoundError, match=r"LLAMA_SERVER_PATH: .* cannot be executed"):
            manager(binary=None).start()

    def test_none_at_all_says_how_to_get_one(self, manager, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(ServerNotFoundError, match=r"pip install xllamacpp==") as raised:
            manager(binary=None).start()
        assert "LLAMA_SERVER_PATH" in str(raised.value)


class TestParent:
    """Programs that use a manager and end in all the ways a program can."""

    START = (
        "import os, signal, sys, time\n"
        "from llamatelemetry import ServerConfig, ServerManager\n"
        "server = ServerManager(ServerConfig({model!r}, port=0), binary={program!r}).start()\n"
        "print(server.pid, flush=True)\n"
    )

    def ending(self, model: Path, program: Path, code: str) -> tuple[int, subprocess.Popen[str]]:
        source = self.START.format(model=str(model), program=str(program)) + code
        parent = subprocess.Popen(
            with_signals([sys.executable, "-c", source]),
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.PIPE,
        )
        return int(parent.stdout.readline()), parent

    @pytest.mark.parametrize(
        "code",
        [
            "",
            "sys.exit(3)",
            "os._exit(0)",
            "raise SystemError",
            "os.kill(os.getpid(), signal.SIGKILL)",
            "os.kill(os.getpid(), signal.SIGTERM)",
        ],
    )
    def test_however_it_ends_the_server_ends(self, model, program, code):
        pid, parent = self.ending(model, program, code)
        parent.communicate(timeout=20)
        wait_until_gone(pid)
        wait_until(lambda: processes_of(program) == [])

    def test_killed_while_the_server_loads(self, model, program, monkeypatch):
        monkeypatch.setenv("FAKE", json.dumps({"load_s": 600}))
        source = (
            "from llamatelemetry import ServerConfig, ServerManager\n"
            f"server = ServerManager(ServerConfig({str(model)!r}, port=0), binary={str(program)!r})\n"
            "server.start(lambda line: print(server.pid, flush=True))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
        ) as parent:
            pid = int(parent.stdout.readline())
            assert not is_gone(pid)
            parent.kill()
        wait_until_gone(pid)
        wait_until(lambda: processes_of(program) == [])

    @pytest.mark.slow
    def test_a_server_that_ignores_its_end_is_killed(self, model, program, monkeypatch):
        monkeypatch.setenv("FAKE", json.dumps({"ignores_term": True}))
        pid, parent = self.ending(model, program, "os._exit(0)")
        parent.communicate(timeout=20)
        wait_until_gone(pid, 20)

    def test_killed_while_a_thread_of_it_has_started_the_server(self, model, program):
        """The server lives as long as the process, not as long as the thread."""
        pid, parent = self.ending(
            model,
            program,
            "import threading\n"
            "server.stop()\n"
            "thread = threading.Thread(target=server.start)\n"
            "thread.start(); thread.join()\n"
            "print(server.pid, server.is_healthy(), flush=True)\n"
            "time.sleep(600)\n",
        )
        pid, healthy = parent.stdout.readline().split()
        time.sleep(0.3)
        assert healthy == "True"
        assert not is_gone(int(pid))
        parent.kill()
        parent.communicate()
        wait_until_gone(int(pid))

    def test_a_forked_child_leaves_it_alone_and_does_not_keep_it(self, model, program):
        pid, parent = self.ending(
            model,
            program,
            "child = os.fork()\n"
            "if not child:\n"
            "    healthy = server.is_healthy(); server.logs(); server.stop()\n"
            "    print(healthy, flush=True); sys.stdout.close(); os.close(1); os.close(2)\n"
            "    time.sleep(20); os._exit(0)\n"
            "time.sleep(600)\n",
        )
        assert parent.stdout.readline() == "True\n"
        time.sleep(0.3)
        assert not is_gone(pid)
        parent.kill()
        parent.communicate()
        wait_until_gone(pid)


class TestTelemetry:
    @pytest.fixture(autouse=True)
    def global_provider(self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", recorder.tracer_provider)

    def test_the_start_is_a_span(self, manager, recorder: Recorder, model: Path):
        server = manager(
            api_key="sk-hidden",
            n_parallel=2,
            chat_template="{{ private }}",
            extra_args=["--api-prefix", "/llm"],
        ).start()
        (span,) = recorder.spans()
        assert (span.name, span.kind) == ("llama_server start", SpanKind.INTERNAL)
        attributes = dict(span.attributes)
        assert 0 < attributes.pop("llamatelemetry.server.load_duration") < 30
        port = attributes["server.port"]
        assert f":{port}/" in server.url
        assert attributes == {
            "gen_ai.provider.name": "llama_cpp",
            "server.address": "127.0.0.1",
            "server.port": port,
            "llamatelemetry.server.binary": "llama-server",
            "llamatelemetry.server.build": "b4242-abcdef",
            "llamatelemetry.server.context_length": 4096,
            "llamatelemetry.server.flags": (
                "--model tiny.gguf",
                "--alias tiny",
                "--host 127.0.0.1",
                f"--port {port}",
                "--ctx-size 4096",
                "--parallel 2",
                "--n-gpu-layers all",
                "--metrics",
                "--jinja",
                "--chat-template ...",
                "--verbosity 4",
                "--api-prefix llm",
            ),
            "llamatelemetry.server.gpu_layers": 31,
            "llamatelemetry.server.memory.devices": ("CUDA0", "CUDA_Host"),
            "llamatelemetry.server.memory.model": (96573850, 0),
            "llamatelemetry.server.memory.context": (11796480, 0),
            "llamatelemetry.server.memory.compute": (15728640, 1048576),
            "llamatelemetry.server.model_alias": "tiny",
            "llamatelemetry.server.model_file": "tiny.gguf",
            "llamatelemetry.server.model_size": model.stat().st_size,
            "llamatelemetry.server.slots": 2,
        }
        assert span.status.status_code is StatusCode.UNSET

    def test_a_start_that_fails_is_an_error_without_the_log(self, manager, recorder: Recorder):
        with pytest.raises(ServerCrashedError):
            manager(fault={"dies": "a secret of the log"}).start()
        (span,) = recorder.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == (
            "the llama.cpp server ended with exit status 1 before it was ready"
        )
        assert span.attributes["error.type"] == "ServerCrashedError"

    def test_the_size_of_a_model_in_parts_is_that_of_all(self, tmp_path, program, recorder):
        for number in (1, 2):
            path = tmp_path / f"big-0000{number}-of-00002.gguf"
            path.write_bytes(b"GGUF" + bytes(96))
        config = ServerConfig(tmp_path / "big-00001-of-00002.gguf", port=0)
        with ServerManager(config, binary=program):
            pass
        (span,) = recorder.spans()
        assert span.attributes["llamatelemetry.server.model_size"] == 200

    def test_first_calls_know_that_it_is_llama_cpp(self, manager):
        port = int(manager().start().url.rpartition(":")[2])
        for host in ("127.0.0.1", "localhost"):
            assert known_servers.provider_of(server_of("http", host, port), "openai") == "llama_cpp"
