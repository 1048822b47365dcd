"""The verdict of `llamatelemetry doctor`, compared with what really arrives at a receiver.

Each situation runs the command line, and then an application with the same environment.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.cli.doctor.verdict import verdict_of
from tests.cli.throwaway import make_distribution
from tests.support import otlp_receiver
from tests.support.http_server import http_server
from tests.support.otlp_receiver import Received, grpc_receiver, http_receiver

APPLICATION = """
import llamatelemetry
llamatelemetry.init()
from opentelemetry import metrics, trace
trace.get_tracer("application").start_span("work").end()
metrics.get_meter("application").create_counter("work.done").add(1)
"""
UNREACHABLE = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Situation:
    """Environment and options, with the expected verdict.

    `{url}`, `{ca}` and `{folder}` are placeholders in the environment. `arrives` are the signals
    that the receiver gets; `remedy` is a part of a remedy.
    """

    name: str
    environ: Mapping[str, str]
    telemetry: str
    verdict: str
    arrives: tuple[str, ...] = ("traces", "metrics")
    status: int = 0
    receiver: str = "http"
    options: tuple[str, ...] = ()
    remedy: str = ""
    responds: Mapping[str, int] = field(default_factory=dict)


ALL, NONE = ("traces", "metrics"), ()
ONE_FAILED = ". 1 check failed: "
TLS = {"OTEL_EXPORTER_OTLP_ENDPOINT": "{tls}"}
TRUSTS = {**TLS, "OTEL_EXPORTER_OTLP_CERTIFICATE": "{ca}"}
NO_PROXY = {"NO_PROXY": "", "no_proxy": ""}
NOT_FOUND = {"/v1/traces": 404, "/v1/metrics": 404, "/v1/logs": 404}
SITUATIONS = [
    Situation("receiver accepts all", {}, "arrives", "OK."),
    Situation("gRPC", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "arrives", "OK.", receiver="grpc"),
    Situation("compressed", {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, "arrives", "OK."),
    Situation(
        "compressed gRPC",
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
        *("arrives", "OK."),
        receiver="grpc",
    ),
    Situation(
        "compression without gRPC support",
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"},
        *("arrives", "OK."),
        receiver="grpc",
    ),
    Situation(
        "wrong protocol",
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    ),
    Situation(
        "no receiver",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": UNREACHABLE},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="Start the receiver",
    ),
    Situation(
        "404 for all signals",
        {},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="Set OTEL_EXPORTER_OTLP_ENDPOINT to the base URL of an OTLP receiver",
        responds=NOT_FOUND,
    ),
    Situation(
        "receiver of traces only",
        {},
        *("partly", "PARTIAL, without metrics and logs. 2 checks failed: Exporter."),
        *(("traces",), 1),
        remedy="OTEL_METRICS_EXPORTER=none",
        responds={"/v1/metrics": 404, "/v1/logs": 404},
    ),
    Situation(
        "credentials rejected",
        {},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="OTEL_EXPORTER_OTLP_HEADERS",
        responds={"/v1/traces": 401, "/v1/metrics": 401, "/v1/logs": 401},
    ),
    Situation(
        "private CA without its certificate",
        TLS,
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="OTEL_EXPORTER_OTLP_CERTIFICATE",
    ),
    Situation("private CA", TRUSTS, "arrives", "OK."),
    Situation("private CA in the bundle", {**TLS, "REQUESTS_CA_BUNDLE": "{ca}"}, "arrives", "OK."),
    Situation(
        "bundle overrides private CA",
        {**TRUSTS, "REQUESTS_CA_BUNDLE": ssl.get_default_verify_paths().cafile or "{other}"},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="Unset REQUESTS_CA_BUNDLE",
    ),
    Situation(
        "bundle does not exist",
        {**TRUSTS, "REQUESTS_CA_BUNDLE": "/none.pem"},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="Unset REQUESTS_CA_BUNDLE",
    ),
    Situation(
        "certificate does not exist",
        {**TLS, "OTEL_EXPORTER_OTLP_CERTIFICATE": "/none.pem"},
        *("fails", "FAILED. 3 checks failed: Exporter (1 warning).", NONE, 1),
    ),
    Situation(
        "dead proxy",
        {"http_proxy": UNREACHABLE, **NO_PROXY},
        *("fails", "FAILED. 3 checks failed: Exporter.", NONE, 1),
        remedy="NO_PROXY",
    ),
    Situation(
        "dead proxy that is bypassed",
        {"http_proxy": UNREACHABLE, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
        *("arrives", "OK."),
    ),
    Situation(
        "sampler always_off",
        {"OTEL_TRACES_SAMPLER": "always_off"},
        *("partly", f"PARTIAL, without spans: the sampler drops them{ONE_FAILED}Sampling."),
        *(("metrics",), 1),
        remedy="OTEL_TRACES_SAMPLER",
    ),
    Situation(
        "sampler parentbased_always_off",
        {"LLAMATELEMETRY_SAMPLING": "parentbased_always_off"},
        *("partly", "PARTIAL, without spans: the sampler drops them (1 warning)."),
        ("metrics",),
    ),
    Situation(
        "sample rate 0",
        {"LLAMATELEMETRY_SAMPLING": "ratio", "LLAMATELEMETRY_SAMPLE_RATE": "0"},
        *("partly", "PARTIAL, without spans: the sampler drops them (1 warning)."),
        ("metrics",),
    ),
    Situation(
        "SDK's ratio 0",
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
        *("partly", f"PARTIAL, without spans: the sampler drops them{ONE_FAILED}Sampling."),
        *(("metrics",), 1),
    ),
    Situation(
        "sample rate that no sampler uses",
        {"LLAMATELEMETRY_SAMPLE_RATE": "0"},
        *("arrives", "OK (1 warning)."),
        remedy="LLAMATELEMETRY_SAMPLING=ratio",
    ),
    Situation("unknown sampler", {"OTEL_TRACES_SAMPLER": "nonesuch"}, "arrives", "OK (1 warning)."),
    Situation(
        "unknown tracer provider",
        {"OTEL_PYTHON_TRACER_PROVIDER": "nonesuch"},
        *("arrives", "OK (1 warning)."),
    ),
    Situation(
        "tracer provider without exporter",
        {"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"},
        *("partly", f"PARTIAL, without traces{ONE_FAILED}Exporter.", ("metrics",), 1),
        remedy="Unset OTEL_PYTHON_TRACER_PROVIDER",
    ),
    Situation(
        "unknown propagator",
        {"OTEL_PROPAGATORS": "b3"},
        *("arrives", f"OK{ONE_FAILED}Configuration.", ALL, 1),
        remedy="OTEL_PROPAGATORS",
    ),
    Situation("invalid number", {"OTEL_BSP_MAX_QUEUE_SIZE": "abc"}, "arrives", "OK (1 warning)."),
    Situation("unknown variable", {"LLAMATELEMETRY_COLOR": "x"}, "arrives", "OK (1 warning)."),
    Situation(
        "unknown exporter",
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        *("partly", f"PARTIAL, without traces{ONE_FAILED}Exporter.", ("metrics",), 1),
        remedy="OTEL_TRACES_EXPORTER=otlp",
    ),
    Situation("exporter none", {"LLAMATELEMETRY_EXPORTER": "none"}, "off", "off.", NONE),
    Situation(
        "SDK disabled",
        {"OTEL_SDK_DISABLED": "true"},
        *("fails", f"FAILED{ONE_FAILED}Distro.", NONE, 1),
        remedy="Unset OTEL_SDK_DISABLED",
    ),
    Situation(
        "missing configuration file",
        {"OTEL_CONFIG_FILE": "/none.yaml"},
        *("fails", f"FAILED{ONE_FAILED}Exporter.", NONE, 1),
        remedy="OTEL_CONFIG_FILE",
    ),
    Situation(
        "inference server is down",
        {},
        *("arrives", f"OK{ONE_FAILED}Server.", ALL, 1),
        options=("--server", UNREACHABLE),
    ),
    Situation(
        "scraped server is down",
        {"LLAMATELEMETRY_SERVER_METRICS_URLS": UNREACHABLE},
        *("arrives", f"OK{ONE_FAILED}Server metrics.", ALL, 1),
        remedy="LLAMATELEMETRY_SERVER_METRICS_URLS",
    ),
]


@contextmanager
def tls_receiver(certificate: tuple[Path, Path]) -> Iterator[Received]:
    """Run the HTTP receiver behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])

    @contextmanager
    def server(handler: type) -> Iterator[int]:
        class Server(ThreadingHTTPServer):
            def get_request(self):
                connection, address = super().get_request()
                try:
                    return context.wrap_socket(connection, server_side=True), address
                except OSError:
                    connection.close()
                    raise

        with http_server(handler, Server) as port:
            yield port

    with otlp_receiver.http_receiver(server) as received:
        yield received


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.name)
@pytest.mark.slow
def test_doctor_predicts_what_arrives(
    tmp_path: Path, certificate: tuple[Path, Path], situation: Situation
) -> None:
    uses_tls = "{tls}" in situation.environ.values()
    make_distribution(tmp_path, "opentelemetry-distro", "0")  # hides an installed one
    kinds = {"grpc": grpc_receiver, "http": http_receiver}
    start = tls_receiver(certificate) if uses_tls else kinds[situation.receiver]()
    with start as receiver:
        receiver.status_of.update(situation.responds)
        known = {
            "{tls}": receiver.url.replace("http:", "https:"),
            "{ca}": str(certificate[1]),
            "{other}": "/none.pem",
        }
        environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("OTEL_")},
            "LLAMATELEMETRY_GPU_ENRICHMENT": "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
            **{name: known.get(text, text) for name, text in situation.environ.items()},
            "PYTHONPATH": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "llamatelemetry.cli", "doctor", "--json", *situation.options],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
        )
        for messages in receiver.messages.values():
            messages.clear()
        subprocess.run(
            [sys.executable, "-c", APPLICATION],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            check=True,
            timeout=100,
        )
    report = json.loads(done.stdout)
    # A check that is late on a busy machine is a warning, too.
    warnings = r" \(\d+ warnings?\)"
    expected, expects_warning = re.subn(warnings, "", f"Export: {situation.verdict}")
    found, has_warning = re.subn(warnings, "", report["verdict"])
    assert (found, has_warning >= expects_warning) == (expected, True)
    assert (report["telemetry"], done.returncode) == (situation.telemetry, situation.status)
    remedies = [check["remedy"] for check in report["checks"]]
    assert any(situation.remedy in remedy for remedy in remedies)
    assert "Traceback" not in done.stderr
    arrived = [
        ("traces", "work" in receiver.spans()),
        ("metrics", "work.done" in receiver.metrics()),
    ]
    assert tuple(signal for signal, has_arrived in arrived if has_arrived) == situation.arrives


EXPORTERS = [Check("ok", title, "", "", "Exporter", "arrives") for title in ("traces", "metrics")]


@pytest.mark.parametrize(
    ("check", "telemetry", "verdict"),
    [
        (
            Check("warn", "all", "", "", "Exporter", "unknown"),
            *("unknown", "Export: UNKNOWN, doctor cannot test all (1 warning)."),
        ),
        (
            Check("fail", "all", "", "", "Instrumentors", "uninstrumented"),
            "partly",
            f"Export: PARTIAL, without calls: no library is instrumented{ONE_FAILED}Instrumentors.",
        ),
        (
            Check("fail", "x", "", "", "Distro", "blocks"),
            *("fails", "Export: FAILED. 1 check failed: Distro."),
        ),
        (
            Check("fail", "logs", "no response within 4 s", "", "Exporter"),
            *("partly", "Export: PARTIAL, without logs. 1 check failed: Exporter."),
        ),
    ],
)
def test_verdict_names_unknown_and_partial_export(check, telemetry, verdict):
    assert verdict_of([*EXPORTERS, check]) == (telemetry, verdict)
