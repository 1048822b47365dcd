"""`ServerManager` with a program that reproduces the failures of a server."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from llamatelemetry.llama import (
    PortTakenError,
    ServerConfig,
    ServerCrashedError,
    ServerManager,
    ServerManagerError,
    StartupTimeoutError,
    UnsupportedOptionError,
)
from tests.llama.processes import is_gone
from tests.llama.server.conftest import PS, processes_of
from tests.support.fake_llama_server import NEW, OLD, faults, make_server
from tests.support.waiting import wait_for

pytestmark = pytest.mark.needs("ps")
_LIMIT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
FIRST_OPEN_PORT = int(_LIMIT.read_text()) if _LIMIT.exists() else 0


def zombies() -> set[str]:
    """Return the ids of the children of this process that have exited and were not waited for."""
    listed = subprocess.run([PS, "-eo", "ppid=,pid=,stat="], capture_output=True, text=True).stdout
    lines = (line.split() for line in listed.splitlines())
    return {pid for parent, pid, state in lines if parent == str(os.getpid()) and state[0] == "Z"}


def as_unprivileged_user(work: Callable[[], str]) -> str:
    """Return the result of a function that runs without the privileges of root."""
    if os.geteuid() != 0:
        return work()
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(write_fd, work().encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, encoding="utf-8") as result:
        text = result.read()
    os.waitpid(child, 0)
    return text


class TestRunning:
    def test_context_manager_starts_and_stops_server(self, manager):
        server = manager(n_parallel=2)
        with server as entered:
            assert entered is server
            assert server.is_healthy()
            with urllib.request.urlopen(f"{server.url}/props") as response:
                assert json.load(response)["total_slots"] == 2
            pid = server.pid
            assert not is_gone(pid)
        assert is_gone(pid)
        assert not server.is_healthy()
        assert any("server is listening" in line for line in server.logs())
        for read in (lambda: server.url, lambda: server.pid):
            with pytest.raises(ServerManagerError, match="not running"):
                read()

    def test_stop_is_idempotent_and_restart_keeps_address(self, manager):
        server = manager().start()
        url, pid = server.url, server.pid
        assert server.restart() is server
        assert (server.url, server.pid == pid) == (url, False)
        assert is_gone(pid)
        server.stop()
        server.stop()
        assert server.start().url == url
        with pytest.raises(RuntimeError, match="already started"):
            server.start()

    def test_managers_run_several_servers(self, manager):
        servers = [manager().start() for _ in range(3)]
        assert len({server.url for server in servers}) == 3
        assert all(server.is_healthy() for server in servers)
        servers[1].stop()
        assert [server.is_healthy() for server in servers] == [True, False, True]

    def test_start_reports_newest_log_line_as_progress(self, manager):
        lines: list[str] = []
        manager(fault={"load_s": 0.5}).start(lines.append)
        assert "srv    load_model: loading model" in lines

    def test_start_uses_flag_names_of_old_builds(self, manager, tmp_path: Path):
        binary = make_server(tmp_path, OLD, name="old-server")
        record = tmp_path / "record"
        env = {"FAKE_RECORD": str(record)}
        manager(binary=binary, env=env, mlock=True, mmap=False, flash_attn=True).start()
        argv = json.loads(record.read_text())["argv"]
        assert {"--mlock", "--no-mmap", "--flash-attn", "999"} <= set(argv)

    def test_logs_returns_last_lines(self, manager):
        server = manager(fault={"log": ["one", "two"]}).start()
        assert server.logs()[:2] == ["one", "two"]
        assert server.logs(0) == []
        assert len(server.logs(1)) == 1

    def test_log_to_appends_log_to_file(self, manager, tmp_path: Path):
        server = manager(fault={"log": ["ümlaut", "two"]})
        server.log_to(tmp_path / "server.log")
        server.start()
        server.restart()
        server.stop()
        text = (tmp_path / "server.log").read_text()
        assert text.count("ümlaut\ntwo\n") == 2

    def test_start_runs_router_for_directory(self, fake_program, model: Path):
        config = ServerConfig(model.parent, port=0)
        with ServerManager(config, binary=fake_program) as server:
            assert server.is_healthy()

    def test_url_includes_api_prefix(self, manager):
        server = manager(extra_args=["--api-prefix", "/llm"]).start()
        assert server.url.endswith("/llm")
        assert server.is_healthy()

    @pytest.mark.needs("openssl")
    def test_url_is_https_with_certificate(self, manager, tmp_path: Path):
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {key} -out {certificate}"
        subprocess.run(shlex.split(make), check=True, capture_output=True)
        files = ["--ssl-key-file", str(key), "--ssl-cert-file", str(certificate)]
        server = manager(extra_args=files).start()
        assert server.url.startswith("https://127.0.0.1:")
        assert server.is_healthy()

    def test_url_uses_loopback_for_wildcard_host(self, manager):
        assert manager(host="0.0.0.0").start().url.startswith("http://127.0.0.1:")

    def test_start_accepts_wrapper_that_starts_server(self, manager, fake_program, tmp_path: Path):
        wrapper = tmp_path / "wrapper"
        wrapper.write_text(f'#!/bin/sh\n"{fake_program}" "$@"\nexit $?\n')
        wrapper.chmod(0o755)
        server = manager(binary=wrapper).start()
        assert server.is_healthy()
        server.stop()
        assert processes_of(fake_program) == []


class TestSecrets:
    def test_api_key_is_in_environment_only(self, manager, tmp_path: Path):
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

    def test_start_rejects_build_that_reads_keys_from_argv_only(self, manager, tmp_path: Path):
        options = [option for option in NEW if "--api-key" not in option.names]
        binary = make_server(tmp_path, options, name="no-key-variable")
        with pytest.raises(
            UnsupportedOptionError, match="which every user of this machine can read"
        ):
            manager(binary=binary, api_key="sk-hidden").start()

    def test_start_removes_option_variables_of_other_servers(
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


class TestFailures:
    def test_start_raises_with_log_when_server_exits_while_loading(self, manager):
        server = manager(fault={"load_s": 0.1, "dies": "invalid magic"})
        with pytest.raises(ServerCrashedError) as raised:
            server.start()
        assert str(raised.value).splitlines() == [
            "the llama.cpp server exited with status 1 before it was ready; its last log lines:",
            "srv    load_model: loading model",
            "llama_model_load: error loading model: invalid magic",
        ]
        assert raised.value.exit_code == 1
        assert not server.is_healthy()

    def test_start_raises_when_server_is_killed_while_loading(self, manager):
        server = manager(fault={"load_s": 0.1, "kills_itself": signal.SIGKILL})
        with pytest.raises(
            ServerCrashedError, match="terminated by SIGKILL before it was"
        ) as raised:
            server.start()
        assert raised.value.log_lines[-1] == "the last words"
        assert raised.value.exit_code == -signal.SIGKILL

    def test_start_raises_when_model_file_was_deleted(self, manager, model: Path):
        server = manager()
        data = model.read_bytes()
        model.unlink()
        with pytest.raises(ServerManagerError, match=f"model file not found: {model}"):
            server.start()
        model.write_bytes(data)
        assert server.start().is_healthy()

    def test_start_raises_when_server_rejects_argument(self, manager):
        with pytest.raises(ServerCrashedError, match="error: invalid argument: --no-such"):
            manager(extra_args=["--no-such"]).start()

    def test_start_kills_server_and_raises_when_startup_times_out(self, manager, fake_program):
        log: tuple[str, ...] = ()
        for timeout_s in (0.5, 5, 50):  # On a slow machine, the program needs longer to begin.
            server = manager(fault={"load_s": 600}, startup_timeout_s=timeout_s)
            with pytest.raises(
                StartupTimeoutError, match=f"not ready after {timeout_s} s"
            ) as raised:
                server.start()
            assert processes_of(fake_program) == []
            log = raised.value.log_lines
            if log:
                break
        assert log == ("srv    load_model: loading model",)

    def test_start_ends_server_when_interrupted(self, manager, fake_program):
        server = manager(fault={"load_s": 600})

        def interrupt(_line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            server.start(interrupt)
        assert processes_of(fake_program) == []

    def test_start_raises_when_other_thread_stops_server(self, manager, fake_program):
        server = manager(fault={"load_s": 600})
        stopper = threading.Timer(0.5, server.stop)
        stopper.start()
        with pytest.raises(ServerManagerError, match="stopped while it was starting"):
            server.start()
        stopper.join()
        assert processes_of(fake_program) == []

    def test_restart_in_other_thread_replaces_a_start_that_runs(self, manager):
        server = manager(fault={"load_s": 1.0})
        restarter = threading.Thread(target=server.restart)

        def restart_once(_: str) -> None:
            if not restarter.ident:
                restarter.start()

        with pytest.raises(ServerManagerError, match="stopped while it was starting"):
            server.start(on_progress=restart_once)
        restarter.join()
        assert server.is_healthy()

    def test_start_raises_when_server_is_stopped_before_its_process_runs(
        self, manager, fake_program
    ):
        class Program:
            """Path of the program. The server is stopped while it is read, as by another thread."""

            def __fspath__(self) -> str:
                server.stop()
                return str(fake_program)

        server = manager(binary=Program())
        with pytest.raises(ServerManagerError, match="stopped while it was starting"):
            server.start()
        assert processes_of(fake_program) == []
        with pytest.raises(ServerManagerError, match="not running"):
            _ = server.url

    def test_start_raises_when_port_is_taken(self, manager):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(PortTakenError, match=rf"port {port} is taken: .*port=0"):
                manager(port=port).start()

    @pytest.mark.skipif(FIRST_OPEN_PORT <= 80, reason="every user may listen on every port")
    def test_start_names_missing_permission_for_port(self):
        def start() -> str:
            with pytest.raises(PortTakenError) as raised:
                ServerManager(config, binary=program).start()
            return str(raised.value)

        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            program, model = make_server(Path(folder), NEW), Path(folder, "m.gguf")
            model.write_bytes(b"GGUF and general.pooling_type")
            with ServerManager(ServerConfig(model, port=0), binary=program):
                pass  # Its --help is read now: the other user may not run this Python.
            config = ServerConfig(model, port=80)
            message = as_unprivileged_user(start)
        assert message == (
            "port 80 is not permitted: this user may not listen on 127.0.0.1:80. "
            "ServerConfig(port=0) picks a free one"
        )

    def test_start_raises_when_other_manager_has_port(self, manager):
        first = manager().start()
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(PortTakenError):
            manager(port=port).start()
        assert first.is_healthy()

    def test_start_ignores_health_response_of_other_server_on_port(self, manager):
        # The other server takes the port after the check, and before the managed server does.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        others: list[ServerManager] = []

        def start_other(_line: str) -> None:
            if not others:
                others.append(manager(port=port).start())

        server = manager(port=port, fault={"silent": True}, startup_timeout_s=2)
        with pytest.raises(StartupTimeoutError):
            server.start(start_other)
        assert others[0].is_healthy()

    def test_start_raises_port_taken_when_other_server_binds_first(self, manager):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        others: list[ServerManager] = []

        def start_other(_line: str) -> None:
            if not others:
                others.append(manager(port=port).start())

        with pytest.raises(PortTakenError, match="couldn't bind HTTP server socket"):
            manager(port=port, fault={"binds_after_s": 2}).start(start_other)

    def test_start_picks_other_port_when_last_one_is_taken(self, manager):
        server = manager().start()
        url = server.url
        server.stop()
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
            assert server.start().url != url

    def test_crash_of_ready_server_is_logged_and_raised(
        self, manager, caplog: pytest.LogCaptureFixture
    ):
        server = manager(fault={"crashes_after_s": 1.0})
        with caplog.at_level(logging.ERROR, "llamatelemetry.llama"):
            server.start()
            pid = server.pid
            wait_for(lambda: caplog.records)
        (record,) = caplog.records
        assert f"process {pid}) was terminated by SIGABRT" in record.message
        assert record.message.endswith("GGML_ASSERT failed: the last words")
        assert not server.is_healthy()
        with pytest.raises(ServerCrashedError, match="the last words"):
            _ = server.url
        assert server.restart().pid != pid

    def test_crashed_server_leaves_no_zombie(self, manager, caplog):
        before = zombies()
        server = manager().start()
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: caplog.records)
        assert zombies() <= before

    def test_start_restarts_crashed_server(self, manager, caplog):
        server = manager().start()
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: caplog.records)
        assert server.start().is_healthy()

    def test_stop_logs_no_crash(self, manager, caplog: pytest.LogCaptureFixture):
        manager().start().stop()
        assert caplog.records == []

    def test_crash_while_streaming_is_logged(self, manager, caplog: pytest.LogCaptureFixture):
        server = manager().start()
        with urllib.request.urlopen(f"{server.url}/stream") as stream:
            assert stream.readline() == b"data: {}\n"
            os.kill(server.pid, signal.SIGKILL)
            while stream.read(100):
                pass
        wait_for(lambda: caplog.records)
        assert "terminated by SIGKILL" in caplog.text

    def test_server_started_by_thread_with_blocked_signals_handles_sigterm(self, manager, caplog):
        # Programs that handle signals in one thread block them in the others.
        blocked = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            server = manager().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: caplog.records)
        assert "exited" in caplog.text or "terminated" in caplog.text
        assert not server.is_healthy()

    @pytest.mark.slow
    def test_stop_kills_suspended_server(self, manager):
        server = manager(fault={"ignores_term": True}).start()
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        assert not server.is_healthy()
        server.stop(timeout_s=0.3)
        assert is_gone(pid)

    def test_stop_kills_server_that_ignores_sigterm(self, manager):
        server = manager(fault={"ignores_term": True}).start()
        pid = server.pid
        server.stop(timeout_s=0.3)
        assert is_gone(pid)

    def test_child_processes_of_server_end_with_it(self, manager, fake_program):
        server = manager(fault={"helper": True}).start()
        assert len(processes_of(fake_program)) >= 2
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: processes_of(fake_program) == [])

    @pytest.mark.slow
    def test_stop_does_not_wait_for_detached_child_process(self, model, fake_program):
        config = ServerConfig(model, port=0, env=faults(helper="runs away"))
        server = ServerManager(config, binary=fake_program).start()
        server.stop()
        (stray,) = processes_of(fake_program)
        os.kill(stray, signal.SIGKILL)

    def test_server_is_killed_when_watchdog_is_killed(self, manager, fake_program, caplog):
        server = manager().start()
        (watchdog,) = set(processes_of(fake_program)) - {server.pid}
        os.kill(watchdog, signal.SIGKILL)
        wait_for(lambda: caplog.records)
        assert "was lost together with its watchdog" in caplog.text
        wait_for(lambda: processes_of(fake_program) == [])

    @pytest.mark.parametrize(("size", "line"), [(3_000_000, 200), (3_000_000, 3_000_000)])
    def test_server_stays_healthy_when_it_logs_megabytes(self, manager, size: int, line: int):
        server = manager(fault={"flood_bytes": size, "flood_line": line}).start()
        wait_for(lambda: server.logs(1) == ["the flood is over"], 60)
        assert server.is_healthy()
        assert sum(map(len, server.logs())) < 2_000_000

    @pytest.mark.slow
    def test_log_file_gets_100_megabytes(self, manager, tmp_path: Path):
        server = manager(fault={"flood_bytes": 100_000_000, "crashes_after_s": 0})
        server.log_to(tmp_path / "server.log")
        server.start()
        with pytest.raises(ServerCrashedError) as raised:
            wait_for(lambda: server.url == "raises once the crash is known", 100)
        assert raised.value.log_lines[-2:] == (
            "the flood is over",
            "GGML_ASSERT failed: the last words",
        )
        assert (tmp_path / "server.log").stat().st_size > 100_000_000
