"""``llamatelemetry doctor`` as a person runs it: exit status, report, JSON, time taken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.cli._doctor_check import Check, Job, run_side_by_side
from llamatelemetry.cli._doctor_machine import gpu_checks, is_server_url, server_checks
from llamatelemetry.cli._doctor_report import as_json, print_report
from tests.cli.receivers import grpc_receiver, http_receiver
from tests.cli.test_doctor_loading import install
from tests.cli.throwaway import make_distribution
from tests.gpu import nvml

# A library may announce its next version; `scripts/test_versions.py newest` makes that an error.
WARNINGS = "error,ignore::DeprecationWarning,ignore::PendingDeprecationWarning"
HERE = {"COLUMNS": "80", "PYTHONWARNINGS": WARNINGS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path in front of everything else; what it holds hides an installed rival distro."""
    make_distribution(tmp_path, "opentelemetry-distro", "0")
    return tmp_path


def doctor(
    folder: Path, environ: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "doctor", *arguments],
        env={**os.environ, **HERE, **environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def failures(finished: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Title to remedy of every failed check; the exit status must agree with the report."""
    report = json.loads(finished.stdout)
    failed = {c["title"]: c["remedy"] for c in report["checks"] if c["status"] == "fail"}
    assert report["ok"] is (not failed)
    assert finished.returncode == (1 if failed else 0)
    assert finished.stderr == ""
    return failed


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LLAMATELEMETRY_EXPORTER": "console"}, {}),
        ({"LLAMATELEMETRY_EXPORTER": "file"}, {}),
        (
            {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_PYTHON_DISTRO": "llama"},
            {"distro": "OTEL_PYTHON_DISTRO=llamatelemetry"},
        ),
        (
            {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
            {"all": ""},
        ),
    ],
)
def test_the_exit_status_says_whether_telemetry_would_arrive(folder, environ, expected):
    assert failures(doctor(folder, environ, "--json")) == expected


@pytest.mark.slow
def test_with_a_receiver_that_takes_everything_all_is_well(folder):
    with http_receiver() as receiver:
        finished = doctor(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}, "--json")
    assert failures(finished) == {}
    assert sorted(path for path, _, _ in receiver.requests) == [
        "/v1/logs",
        "/v1/metrics",
        "/v1/traces",
    ]


@pytest.mark.slow
def test_a_receiver_of_traces_only_fails_until_the_other_signals_are_switched_off(folder):
    with grpc_receiver() as receiver:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        all_signals = failures(doctor(folder, environ, "--json"))
        off = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
        traces_only = failures(doctor(folder, {**environ, **off}, "--json"))
    assert set(all_signals) == {"metrics", "logs"}
    assert traces_only == {}


@pytest.mark.slow
def test_beside_another_distro_the_variable_decides(folder):
    install(folder, "rival")
    environ = {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}
    assert failures(doctor(folder, environ, "--json"))["distro"] == (
        "OTEL_PYTHON_DISTRO=llamatelemetry"
    )
    named = {**environ, "OTEL_PYTHON_DISTRO": "llamatelemetry"}
    assert failures(doctor(folder, named, "--json")) == {}


@pytest.mark.slow
def test_a_rival_instrumentor_is_named_with_the_option_that_chooses(folder):
    make_distribution(
        folder,
        "rival-openai",
        entry_points={"opentelemetry_instrumentor": {"openai": "rival_openai:Instrumentor"}},
        modules={"rival_openai": "class Instrumentor: pass"},
    )
    report = json.loads(doctor(folder, {"LLAMATELEMETRY_EXPORTER": "console"}, "--json").stdout)
    found = {c["title"]: c["detail"] for c in report["checks"] if c["section"] == "Instrumentors"}
    assert found["openai"].startswith("skipped: Not loading instrumentor openai (rival-openai 1.0)")
    assert "LLAMATELEMETRY_INSTRUMENTORS=" in found["openai"]
    assert found["llamatelemetry_openai"] == "would load"
    # Broken, it is in nobody's way: the distro falls back on the other one, and so do we.
    (folder / "rival_openai.py").write_text("raise ImportError('for openai 1')")
    environ = {"LLAMATELEMETRY_EXPORTER": "console", "LLAMATELEMETRY_INSTRUMENTORS": "theirs"}
    report = json.loads(doctor(folder, environ, "--json").stdout)
    found = {c["title"]: c["detail"] for c in report["checks"] if c["section"] == "Instrumentors"}
    assert found["openai"] == "cannot be imported: ImportError: for openai 1"
    assert found["llamatelemetry_openai"] == "would load"


PROGRAM = "from opentelemetry import trace; trace.get_tracer('t').start_span('work').end()"


@pytest.mark.parametrize(
    ("environ", "failed"),
    [
        ({}, {}),
        ({"OTEL_PYTHON_DISTRO": "llamatelemetry"}, {}),
        ({"OTEL_SDK_DISABLED": "true"}, {"SDK": "unset OTEL_SDK_DISABLED"}),
        (
            {"OTEL_PYTHON_CONFIGURATOR": "llama"},
            {"configurator": "OTEL_PYTHON_CONFIGURATOR=llamatelemetry"},
        ),
        ({"LLAMATELEMETRY_EXPORTER": "none"}, {"all": "LLAMATELEMETRY_EXPORTER=otlp"}),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, {"traces": "OTEL_TRACES_EXPORTER=otlp"}),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_what_doctor_foretells_is_what_opentelemetry_instrument_does(folder, environ, failed):
    """A program under `opentelemetry-instrument`: its span arrives when doctor says so."""
    with http_receiver() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **environ}
        assert failures(doctor(folder, environ, "--json")) == failed
        receiver.requests.clear()
        instrument = Path(sys.executable).with_name("opentelemetry-instrument")
        subprocess.run(
            [instrument, sys.executable, "-c", PROGRAM],
            env={**os.environ, **environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            timeout=60,
        )
    arrived = any(path == "/v1/traces" and size for path, _, size in receiver.requests)
    assert arrived is (not failed)


def test_the_report_is_readable_in_a_pipe_at_80_columns(folder):
    secret = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret"}
    install(folder, "rival")
    with http_receiver(401) as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **secret}
        finished = doctor(folder, {**environ, "OTEL_PYTHON_DISTRO": "llamatelemetry"})
    lines = finished.stdout.splitlines()
    assert finished.returncode == 1
    assert finished.stdout.isascii()
    assert "\x1b" not in finished.stdout
    assert max(map(len, lines)) <= 80
    assert "secret" not in finished.stdout
    text = " ".join(finished.stdout.split())
    for expected in (
        "Versions info python:",
        "Distro ok distro: llamatelemetry",
        "also installed: rival (rival-dist 1.0)",
        "Configuration info otlp_endpoint:",
        f"FAIL traces: http/protobuf to {receiver.url}/v1/traces: 401,",
        "-> correct OTEL_EXPORTER_OTLP_HEADERS",
        "GPU",
    ):
        assert expected in text
    # The same step for three signals is said once.
    assert finished.stdout.count("-> correct OTEL_EXPORTER_OTLP_HEADERS") == 1
    assert lines[-1].startswith("Telemetry would NOT arrive: 3 FAIL above")


def test_a_server_that_is_no_url_is_a_usage_error(folder):
    finished = doctor(folder, {}, "--server", "127.0.0.1:8080")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "expected a URL such as http://127.0.0.1:8080" in finished.stderr


@pytest.mark.slow
def test_it_ends_in_seconds_when_nothing_answers(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
        started = time.monotonic()
        finished = doctor(folder, environ, "--json", "--server", address)
        took_s = time.monotonic() - started
    assert {"traces", "metrics", "logs", address} <= set(failures(finished))
    assert took_s < 20  # under five on an idle machine; without a deadline it would hang


def test_jobs_run_side_by_side_and_none_holds_up_the_report():
    def never() -> list[Check]:
        threading.Event().wait(30)
        return []

    def breaks() -> list[Check]:
        raise RuntimeError("no")

    good = Check("S", "ok", "good", "fine")
    jobs = [Job("S", "never", never), Job("S", "breaks", breaks), Job("S", "good", lambda: [good])]
    late, broken, found = run_side_by_side([*jobs], 0.3)
    assert (late[0].status, late[0].detail) == ("fail", "no answer within 0.3 s")
    assert (broken[0].status, broken[0].title) == ("warn", "breaks")
    assert "RuntimeError: no" in broken[0].detail
    assert found == [good]
    assert run_side_by_side([Job("S", "empty", list)], 1) == [[]]


PROPS = {
    "default_generation_settings": {"n_ctx": 4096},
    "total_slots": 2,
    "model_alias": "",
    "model_path": "/models/secret-place/tiny.gguf",
    "endpoint_metrics": False,
    "build_info": "b11549",
}


def ask_server(**answers) -> list[tuple[str, str]]:
    with http_receiver(**answers) as receiver:
        return [(each.status, each.detail) for each in server_checks(f"{receiver.url}/v1/", 2)]


LLAMA = {"Server": "llama.cpp"}


def test_a_llama_server_tells_its_health_model_and_slots():
    bodies = {"/health": '{"status":"ok"}', "/props": json.dumps(PROPS)}
    assert ask_server(bodies=bodies, headers=LLAMA) == [
        ("ok", "healthy (ok)"),
        (
            "ok",
            (
                "model tiny.gguf, build b11549, context per slot 4096, slots 2, "
                "metrics off (start it with --metrics)"
            ),
        ),
    ]


def test_a_real_llama_server_is_recognised(llama_server):
    health, props = server_checks(llama_server.url, 2)
    assert (health.status, health.detail) == ("ok", "healthy (ok)")
    assert props.status == "ok"
    assert "slots 2" in props.detail
    assert "metrics on" in props.detail


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"status": 503}, [("warn", "still loading its model")]),
        ({"status": 404}, [("fail", "/health answers 404")]),
        (
            {"by_path": {"/props": 401}, "headers": LLAMA},
            [("ok", "healthy (200)"), ("info", "/props needs the server's API key")],
        ),
        (
            {"bodies": {"/props": "garbage"}, "headers": LLAMA},
            [("ok", "healthy (200)"), ("ok", "/props is empty")],
        ),
    ],
)
def test_other_answers_of_a_server(answers, expected):
    assert ask_server(**answers) == expected


def test_a_server_that_is_not_llama_cpp_is_only_a_warning():
    assert [status for status, _ in ask_server()] == ["ok", "warn"]


def test_a_server_on_loopback_is_asked_past_the_proxy_of_the_environment(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask_server(headers=LLAMA)[0] == ("ok", "healthy (200)")


def test_a_server_that_is_not_there_fails():
    [check] = server_checks("http://127.0.0.1:1", 1)
    assert (check.status, check.remedy) == ("fail", "start llama-server there")


@pytest.mark.parametrize("url", ["", "host:80", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_server_url(url):
    assert not is_server_url(url)


def test_no_gpu_is_a_normal_state(tmp_path, monkeypatch):
    monkeypatch.setenv("NVML_DEVICES", str(tmp_path / "none"))  # for the one of other tests
    [check] = gpu_checks()
    assert check.status == "info"


def test_each_gpu_that_can_be_used_is_shown(tmp_path, monkeypatch):
    nvml.load()
    for name, value in nvml.Driver(tmp_path, nvml.eight_with_nvswitch()).environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,1")
    assert [(check.status, check.title, check.detail) for check in gpu_checks()] == [
        ("ok", "NVIDIA", "2 to use, driver 570.133.20, CUDA 12.8"),
        *(
            (
                "ok",
                f"GPU {index}",
                f"NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, {nvml.uuid(index)}",
            )
            for index in (6, 1)
        ),
    ]


def test_a_report_without_failures_says_so(capsys):
    print_report([Check("S", "ok", "a", "b"), Check("S", "warn", "c", "[d] :e:", "do it")])
    text = capsys.readouterr().out
    assert "[d] :e:" in text  # no markup, no emoji
    assert text.splitlines()[-1] == "Telemetry would arrive (1 warning)."


def test_json_holds_every_check():
    check = Check("S", "fail", "a", "b", "c")
    report = json.loads(as_json([check]))
    assert report["ok"] is False
    assert report["checks"] == [
        {"section": "S", "status": "fail", "title": "a", "detail": "b", "remedy": "c"}
    ]
