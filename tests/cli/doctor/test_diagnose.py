"""`llamatelemetry doctor` as a user runs it: exit status, report, JSON, time limit."""

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

from llamatelemetry import __version__
from llamatelemetry.cli.doctor.check import Check, Job, in_section, run_in_parallel
from llamatelemetry.cli.doctor.config import resolve
from llamatelemetry.cli.doctor.exporters import SignalPlan, nothing_exported
from llamatelemetry.cli.doctor.machine import gpu_checks
from llamatelemetry.cli.doctor.report import as_json, print_report
from llamatelemetry.config import OPTIONS
from tests.cli.receivers import grpc_receiver, http_receiver
from tests.cli.throwaway import install_distros, make_distribution
from tests.support import nvml

# A library may announce its next version; `scripts/test_versions.py newest` makes that an error.
WARNINGS = "error,ignore::DeprecationWarning,ignore::PendingDeprecationWarning"
HERE = {"COLUMNS": "80", "PYTHONWARNINGS": WARNINGS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory at the front of the path. It hides an installed opentelemetry-distro."""
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
    """Return title and remedy of each failed check; assert that the exit status matches."""
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
        ({"LLAMATELEMETRY_EXPORTER": "none"}, {}),
        (
            {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_PYTHON_DISTRO": "llama"},
            {"distro": "Set OTEL_PYTHON_DISTRO=llamatelemetry"},
        ),
        (
            {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
            {"all": ""},
        ),
    ],
)
def test_doctor_exits_with_1_when_a_check_failed(folder, environ, expected):
    assert failures(doctor(folder, environ, "--json")) == expected


@pytest.mark.slow
def test_doctor_passes_when_receiver_accepts_all_signals(folder):
    with http_receiver() as receiver:
        finished = doctor(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}, "--json")
    assert failures(finished) == {}
    assert sorted(path for path, _, _ in receiver.requests) == [
        "/v1/logs",
        "/v1/metrics",
        "/v1/traces",
    ]


@pytest.mark.slow
def test_doctor_fails_for_trace_only_receiver_until_other_signals_are_disabled(folder):
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
def test_doctor_fails_with_two_distros_until_variable_names_one(folder):
    install_distros(folder, "rival")
    environ = {"LLAMATELEMETRY_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}
    assert failures(doctor(folder, environ, "--json"))["distro"] == (
        "Set OTEL_PYTHON_DISTRO=llamatelemetry"
    )
    named = {**environ, "OTEL_PYTHON_DISTRO": "llamatelemetry"}
    assert failures(doctor(folder, named, "--json")) == {}


@pytest.mark.slow
def test_doctor_names_competing_instrumentor_and_the_option_that_selects_one(folder):
    make_distribution(
        folder,
        "rival-openai",
        entry_points={"opentelemetry_instrumentor": {"openai": "rival_openai:Instrumentor"}},
        modules={"rival_openai": "class Instrumentor: pass"},
    )
    report = json.loads(doctor(folder, {"LLAMATELEMETRY_EXPORTER": "console"}, "--json").stdout)
    found = {c["title"]: c for c in report["checks"] if c["section"] == "Instrumentors"}
    assert found["openai"]["detail"] == (
        "not loaded: llamatelemetry_openai (llamatelemetry-instrumentation-openai "
        f"{__version__}) instruments the same library"
    )
    assert found["openai"]["remedy"] == (
        "Set LLAMATELEMETRY_INSTRUMENTORS=theirs to load openai instead, or =all to load both "
        "(duplicate spans)"
    )
    assert found["llamatelemetry_openai"]["detail"] == "will be loaded"
    # If the competing instrumentor cannot be imported, the distro loads llamatelemetry's.
    (folder / "rival_openai.py").write_text("raise ImportError('for openai 1')")
    environ = {"LLAMATELEMETRY_EXPORTER": "console", "LLAMATELEMETRY_INSTRUMENTORS": "theirs"}
    report = json.loads(doctor(folder, environ, "--json").stdout)
    found = {c["title"]: c["detail"] for c in report["checks"] if c["section"] == "Instrumentors"}
    assert found["openai"] == "cannot be imported: ImportError: for openai 1"
    assert found["llamatelemetry_openai"] == "will be loaded"


PROGRAM = "from opentelemetry import trace; trace.get_tracer('t').start_span('work').end()"


@pytest.mark.parametrize(
    ("environ", "failed"),
    [
        ({}, {}),
        ({"OTEL_PYTHON_DISTRO": "llamatelemetry"}, {}),
        ({"OTEL_SDK_DISABLED": "true"}, {"SDK": "Unset OTEL_SDK_DISABLED"}),
        (
            {"OTEL_PYTHON_CONFIGURATOR": "llama"},
            {"configurator": "Set OTEL_PYTHON_CONFIGURATOR=llamatelemetry"},
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, {"traces": "Set OTEL_TRACES_EXPORTER=otlp"}),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_doctor_predicts_whether_opentelemetry_instrument_exports_a_span(folder, environ, failed):
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


def test_report_in_a_pipe_is_ascii_and_at_most_80_columns_wide(folder):
    secret = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret"}
    install_distros(folder, "rival")
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
        "-> Correct OTEL_EXPORTER_OTLP_HEADERS",
        "GPU",
    ):
        assert expected in text
    # The remedy of all three signals is printed once.
    assert finished.stdout.count("-> Correct OTEL_EXPORTER_OTLP_HEADERS") == 1
    assert lines[-1].startswith("Export: FAILED. 3 checks failed: Exporter")


@pytest.mark.slow
def test_doctor_ends_in_time_when_endpoints_do_not_respond(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
        started = time.monotonic()
        finished = doctor(folder, environ, "--json", "--server", address)
        took_s = time.monotonic() - started
    assert {"traces", "metrics", "logs", address} <= set(failures(finished))
    assert took_s < 20  # less than 5 s on an idle machine; it hangs without the time limit


def test_run_in_parallel_reports_late_and_failed_jobs():
    def never() -> list[Check]:
        threading.Event().wait(30)
        return []

    def breaks() -> list[Check]:
        raise RuntimeError("no")

    good = Check("ok", "good", "fine")
    jobs = [Job("S", "never", never), Job("S", "breaks", breaks), Job("S", "good", lambda: [good])]
    late, broken, found = run_in_parallel([*jobs], 0.3)
    assert (late[0].status, late[0].detail) == ("fail", "no response within 0.3 s")
    assert (broken[0].status, broken[0].title) == ("warn", "breaks")
    assert "RuntimeError: no" in broken[0].detail
    assert found == in_section("S", [good])
    assert run_in_parallel([Job("S", "empty", list)], 1) == [[]]


def test_gpu_checks_do_not_fail_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("NVML_DEVICES", str(tmp_path / "none"))  # hides the driver of other tests
    [check] = gpu_checks()
    assert check.status == "info"


def test_gpu_checks_list_visible_gpus_in_order(tmp_path, monkeypatch):
    nvml.load()
    for name, value in nvml.Driver(tmp_path, nvml.eight_with_nvswitch()).environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,1")
    assert [(check.status, check.title, check.detail) for check in gpu_checks()] == [
        ("ok", "NVIDIA", "2 available, driver 570.133.20, CUDA 12.8"),
        *(
            (
                "ok",
                f"GPU {index}",
                f"NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, {nvml.uuid(index)}",
            )
            for index in (6, 1)
        ),
    ]


def test_report_without_failures_says_that_export_is_ok(capsys):
    print_report([Check("ok", "a", "b"), Check("warn", "c", "[d] :e:", "do it")])
    text = capsys.readouterr().out
    assert "[d] :e:" in text  # neither markup nor emoji is interpreted
    assert text.splitlines()[-1] == "Export: OK (1 warning)."


def test_report_keeps_export_ok_when_only_the_server_failed(capsys):
    print_report(
        [
            Check("ok", "traces", "x", section="Exporter"),
            Check("fail", "url", "y", section="Server"),
        ]
    )
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "Export: OK. 1 check failed: Server."


def test_report_says_that_export_is_off_when_the_user_chose_none(capsys):
    checks = nothing_exported([SignalPlan("traces", "none", "none")], "X")
    print_report(in_section("Exporter", checks))
    assert capsys.readouterr().out.splitlines()[-1] == "Export: off."


def test_json_report_contains_every_check_and_option():
    check = Check("fail", "a", "b", "c", "S")
    environ = {
        "LLAMATELEMETRY_EXPORTER": "console",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
    }
    report = json.loads(as_json([check], resolve(environ)[0]))
    assert report["ok"] is False
    assert (report["telemetry"], report["verdict"]) == (
        "arrives",
        "Export: OK. 1 check failed: S.",
    )
    assert report["checks"] == [
        {"section": "S", "status": "fail", "title": "a", "detail": "b", "remedy": "c"}
    ]
    assert report["options"].keys() == OPTIONS.keys()
    assert report["options"]["exporter"] == {
        "value": "console",
        "source": "LLAMATELEMETRY_EXPORTER",
    }
    assert report["options"]["otlp_headers"]["value"] == "***"
    assert report["options"]["gpu_interval_ms"]["source"] == "default"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
@pytest.mark.parametrize(
    "endpoint",
    [
        "http://user:swordfish@127.0.0.1:9/v1?api_key=swordfish",
        "user:swordfish@127.0.0.1:9",
        "http://user:swordfish@127.0.0.1:port",
    ],
)
def test_doctor_shows_no_credentials_of_urls(folder, endpoint, arguments):
    url = "http://user:swordfish@127.0.0.1:9/?token=swordfish"
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "LLAMATELEMETRY_LLAMACPP_METRICS_URL": url,
    }
    done = doctor(folder, environ, "--server", url, *arguments)
    assert "swordfish" not in done.stdout + done.stderr
    assert "***@127.0.0.1:9" in done.stdout


def test_doctor_shows_no_value_of_invalid_headers(folder):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization Bearer swordfish",
    }
    done = doctor(folder, environ)
    assert "swordfish" not in done.stdout + done.stderr
