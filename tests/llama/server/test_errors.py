"""Errors of a server that exited: likely cause, remedy, and how the program was found."""

from __future__ import annotations

import http.client
import os
import platform
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from llamatelemetry.llama import (
    ServerConfig,
    ServerCrashedError,
    ServerManager,
    ServerManagerError,
    ServerNotFoundError,
)
from tests.support.fake_llama_server import faults, make_server
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

OTHER_CPU = "was terminated by SIGILL before it was ready: it was built for another CPU"
EARLY = "before it was ready"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def dying_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an xllamacpp that crashes on import, as a wheel for another CPU may."""
    directory = tmp_path / "wheel"
    directory.mkdir()
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    (directory / "xllamacpp.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(directory))


def failure(model: Path, binary: object, **env: str) -> ServerManagerError:
    with pytest.raises(ServerManagerError) as raised:
        ServerManager(ServerConfig(model, port=0, env=env), binary=binary).start()
    return raised.value


def script(directory: Path, code: str) -> Path:
    path = directory / "llama-server"
    path.write_text(code)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (signal.SIGILL, "it was built for another CPU", "-DGGML_NATIVE=OFF"),
        (signal.SIGKILL, "perhaps the system ran out of memory", "OOM killer"),
        (signal.SIGSEGV, "it crashed in native code", "n_gpu_layers=0"),
        (signal.SIGBUS, "it could not read or write mapped memory", "mmap=False"),
        (signal.SIGABRT, "it aborted after an error", "The log names"),
    ],
)
def test_error_explains_signal_that_ended_loading_server(model, tmp_path, number, cause, remedy):
    binary = make_server(tmp_path)
    error = failure(model, binary, **faults(kills_itself=number))
    first, advice, header, *log = str(error).splitlines()
    assert first == f"the llama.cpp server was terminated by {number.name} {EARLY}: {cause}"
    assert remedy in advice
    assert advice.endswith(f" The program is {binary}, from the argument `binary`.")
    assert header == "Its last log lines:"
    assert log[-1] == "the last words"
    assert (type(error), error.exit_code) == (ServerCrashedError, -number)


def test_error_explains_exit_status_of_wrapper_script(model, tmp_path):
    directory = tmp_path / "inner"
    directory.mkdir()
    inner = make_server(directory)
    wrapper = script(tmp_path, f'#!/bin/sh\n"{inner}" "$@"\nexit $?\n')
    error = failure(model, wrapper, **faults(kills_itself=signal.SIGILL))
    assert f"exited with status 132 {EARLY}: it was built for another CPU\n" in str(error)


@pytest.mark.parametrize("status", [126, 127])
def test_error_explains_wrapper_script_when_its_program_does_not_run(model, tmp_path, status):
    target = tmp_path / "plain" if status == 126 else "/no/such/program"
    (tmp_path / "plain").touch()
    help_text = subprocess.check_output([make_server(tmp_path), "--help"], text=True)
    (tmp_path / "help").write_text(help_text)
    wrapper = script(
        tmp_path,
        f'#!/bin/sh\n[ "$1" = --help ] && exec cat {tmp_path / "help"}\nexec {target}\n',
    )
    expected = {
        126: "a program cannot be executed",
        127: "a program or a shared library was not found",
    }
    first = str(failure(model, wrapper)).splitlines()[0]
    assert first.endswith(f"exited with status {status} {EARLY}: {expected[status]}")


def test_log_and_error_explain_crash_at_first_request(model, tmp_path, caplog):
    binary = make_server(tmp_path)
    env = faults(first_request_kills=signal.SIGILL)
    with ServerManager(ServerConfig(model, port=0, env=env), binary=binary) as server:
        pid, url = server.pid, server.url
        assert server.is_healthy()
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            urllib.request.urlopen(f"{url}/v1/models")
        wait_for(lambda: caplog.records)
        with pytest.raises(ServerCrashedError) as raised:
            _ = server.url
    (record,) = caplog.records
    for text in (record.message, str(raised.value)):
        first, advice = text.splitlines()[:2]
        assert first == (
            f"the llama.cpp server (process {pid}) was terminated by SIGILL: it was built for another CPU"
        )
        assert "pip install xllamacpp==" in advice
        assert str(binary) in advice


@pytest.mark.parametrize("found", ["on PATH", "by LLAMA_SERVER_PATH"])
def test_error_names_how_program_was_found(model, tmp_path, monkeypatch, found):
    binary = make_server(tmp_path)
    if found == "on PATH":
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        expected = "found on PATH"
    else:
        monkeypatch.setenv("LLAMA_SERVER_PATH", str(binary))
        expected = "from the variable LLAMA_SERVER_PATH"
    error = failure(model, None, **faults(kills_itself=signal.SIGILL))
    assert f"The program is {binary}, {expected}." in str(error)


def test_span_has_cause_without_path(model, tmp_path, recorded: Recorder):
    failure(model, make_server(tmp_path), **faults(kills_itself=signal.SIGILL))
    (span,) = recorded.spans()
    assert span.status.description == f"the llama.cpp server {OTHER_CPU}"


class TestHelp:
    """Errors of running `--help`, the first call of each program."""

    def test_error_explains_sigill_of_help(self, model, tmp_path):
        binary = script(tmp_path, "#!/bin/sh\nkill -ILL $$\n")
        error = failure(model, binary)
        assert str(error).startswith(
            f"`{binary} --help` was terminated by SIGILL: it was built for another CPU\nUse a build for"
        )
        assert error.exit_code == -signal.SIGILL

    @pytest.mark.needs("cc")
    def test_error_explains_missing_shared_library(self, model, tmp_path):
        library = tmp_path / "libneeded-by-test.so"
        binary = tmp_path / "llama-server"
        for code, command in (
            ("int needed(void) { return 0; }", ["-shared", "-fPIC", "-o", library]),
            ("int needed(void); int main(void) { return needed(); }", ["-o", binary]),
        ):
            source = tmp_path / "source.c"
            source.write_text(code)
            linked = [] if "-shared" in command else [library]
            subprocess.run(["cc", *command, source, *linked], check=True)
        library.unlink()
        error = failure(model, binary)
        assert "--help` exited with status 127: a shared library is missing\n" in str(error)
        assert "LD_LIBRARY_PATH" in str(error)
        assert any("libneeded-by-test.so" in line for line in error.log_lines)

    def test_error_explains_build_for_newer_glibc(self, model, tmp_path):
        line = "x: /lib/libc.so.6: version `GLIBC_2.99' not found (required by x)"
        (tmp_path / "output").write_text(line)
        binary = script(tmp_path, f"#!/bin/sh\ncat {tmp_path / 'output'} >&2\nexit 1\n")
        error = failure(model, binary)
        assert "exited with status 1: it was built for a newer system\n" in str(error)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (
                b"\x7fELF\x02\x01\x01" + bytes(200),
                rf"Exec format error: it was built for another .* than {platform.machine()}",
            ),
            (
                b"#!/no/such/interpreter\n",
                "No such file or directory: the interpreter of its .* is missing",
            ),
            # The system rejects the permissions of the interpreter; those of the file are valid.
            (b"#!/etc/passwd\n", "Permission denied: execution is not permitted"),
        ],
        ids=["format", "interpreter", "permission"],
    )
    def test_error_explains_program_that_system_cannot_execute(
        self, model, tmp_path, content, expected
    ):
        binary = tmp_path / "llama-server"
        binary.write_bytes(content)
        binary.chmod(0o755)
        text = str(failure(model, binary))
        assert re.search(expected, text)
        assert f"The program is {binary}, from the argument `binary`." in text

    def test_error_names_chmod_command_for_plain_file(self, model, tmp_path):
        plain = tmp_path / "a plain file"
        plain.touch()
        error = failure(model, plain)
        assert isinstance(error, ServerNotFoundError)
        assert str(error).endswith(f"is not executable. Run: chmod +x '{plain}'")


class TestEmbedded:
    def test_manager_error_explains_wheel_for_other_cpu(self, model, dying_wheel):
        text = str(failure(model, "embedded"))
        assert f"the llama.cpp server {OTHER_CPU}\n" in text
        assert "build llama.cpp from source on this machine" in text
        assert "--base-url" in text
        assert "The program is the embedded server, inside xllamacpp." in text
