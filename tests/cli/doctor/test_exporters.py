"""The exporter that doctor finds for each signal, and the result of its test export."""

from __future__ import annotations

import socket
import ssl
import threading

import grpc
import pytest

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.cli.doctor.config import resolve
from llamatelemetry.cli.doctor.exporters import (
    SignalPlan,
    declarative_checks,
    llamatelemetry_plans,
    nothing_exported,
    sdk_plans,
)
from llamatelemetry.cli.doctor.reach import exporter_checks
from tests.cli.receivers import grpc_receiver, http_receiver

PROTOCOL, ENDPOINT = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


def plans_of(environ: dict[str, str], llamatelemetry: bool) -> list[SignalPlan]:
    if not llamatelemetry:
        return sdk_plans(environ)
    return llamatelemetry_plans(resolve(environ)[0], environ)[0]


def shown(environ: dict[str, str], *, llamatelemetry: bool = True) -> list[str]:
    return [f"{plan.signal}: {plan.shown}" for plan in plans_of(environ, llamatelemetry)]


def probe(environ: dict[str, str], signal: str = "traces", *, llamatelemetry: bool = True) -> Check:
    [plan] = [plan for plan in plans_of(environ, llamatelemetry) if plan.signal == signal]
    [check] = exporter_checks(plan, 2)
    return check


def signals(address: str) -> list[str]:
    return [f"{signal}: {address}" for signal in ("traces", "metrics", "logs")]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {},
            [
                f"{s}: http/protobuf to http://localhost:4318/v1/{s}"
                for s in ("traces", "metrics", "logs")
            ],
        ),
        ({ENDPOINT: "http://c:4317"}, signals("grpc to http://c:4317")),
        (
            {ENDPOINT: "https://c/otlp/"},
            [f"{s}: http/protobuf to https://c/otlp/v1/{s}" for s in ("traces", "metrics", "logs")],
        ),
        (
            {ENDPOINT: "http://c:4318/v1/traces"},
            [
                "traces: http/protobuf to http://c:4318/v1/traces",
                "metrics: none",
                "logs: none",
            ],
        ),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://l:9/x", "OTEL_METRICS_EXPORTER": "none"},
            [
                "traces: http/protobuf to http://localhost:4318/v1/traces",
                "metrics: none",
                "logs: http/protobuf to http://l:9/x",
            ],
        ),
        ({"LLAMATELEMETRY_EXPORTER": "file"}, signals("file (./llamatelemetry-data)")),
        ({"LLAMATELEMETRY_EXPORTER": "console-json"}, signals("console")),
        (
            {"LLAMATELEMETRY_EXPORTER": "console"},
            ["traces: console", "metrics: none", "logs: none"],
        ),
        (
            {"LLAMATELEMETRY_EXPORTER": "console-json", "LLAMATELEMETRY_METRICS": "false"},
            ["traces: console", "metrics: none", "logs: console"],
        ),
        (
            {
                ENDPOINT: "http://user:secret@c:4317",
                "OTEL_TRACES_EXPORTER": "console,otlp_proto_http",
            },
            [
                "traces: console",
                "traces: http/protobuf to http://***@c:4317/v1/traces",
                "metrics: grpc to http://***@c:4317",
                "logs: grpc to http://***@c:4317",
            ],
        ),
    ],
)
def test_llamatelemetry_plans_follow_options_and_variables(environ, expected):
    assert shown(environ) == expected


OTLP = {f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("TRACES", "METRICS", "LOGS")}


def test_sdk_plans_follow_the_rules_of_the_sdk():
    assert shown({}, llamatelemetry=False) == signals("none")
    assert shown(OTLP, llamatelemetry=False) == signals("grpc to http://localhost:4317")
    twice = {**OTLP, ENDPOINT: "http://c:4318/v1/traces", PROTOCOL: "http/protobuf"}
    assert shown(twice, llamatelemetry=False)[0] == (
        "traces: http/protobuf to http://c:4318/v1/traces/v1/traces"
    )
    # The SDK ignores LLAMATELEMETRY_*.
    assert shown({**OTLP, "LLAMATELEMETRY_EXPORTER": "file"}, llamatelemetry=False)[0].endswith(
        ":4317"
    )


def test_llamatelemetry_plans_return_warnings_of_the_configurator():
    environ = {ENDPOINT: "http://c:4318/v1/traces"}
    [check] = llamatelemetry_plans(resolve(environ)[0], environ)[1]
    assert check.status == "warn"
    assert "accepts only traces: metrics and logs are not exported" in check.detail


@pytest.mark.parametrize(
    ("status", "result", "detail", "remedy"),
    [
        (200, "ok", "an empty export was accepted", ""),
        (202, "ok", "an empty export was accepted", ""),
        (307, "fail", "307, a redirect to http://else/", "Set the endpoint to http://else/"),
        (400, "warn", "400, the receiver responds", ""),
        (401, "fail", "401, the receiver rejected the credentials", HEADERS),
        (403, "fail", "403, the receiver rejected the credentials", HEADERS),
        (404, "fail", "404, the receiver has no traces endpoint", "OTEL_TRACES_EXPORTER=none"),
        (415, "fail", "415, the receiver does not accept protobuf", f"{PROTOCOL}=grpc"),
        (500, "fail", "500, the receiver failed", "log"),
        (503, "warn", "503, the receiver is overloaded", ""),
    ],
)
def test_http_probe_explains_each_status(status, result, detail, remedy):
    with http_receiver(status, headers={"Location": "http://else/"}) as receiver:
        check = probe({ENDPOINT: receiver.url})
    assert check.status == result
    assert f"http/protobuf to {receiver.url}/v1/traces: {detail}" in check.detail
    assert remedy in check.remedy
    assert bool(remedy) == bool(check.remedy)


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_http_probe_sends_empty_export_with_configured_headers(signal):
    with http_receiver() as receiver:
        environ = {ENDPOINT: receiver.url, HEADERS: "Authorization=Bearer%20key,x-tenant=7"}
        assert probe(environ, signal).status == "ok"
    [(path, headers, size)] = receiver.requests
    assert (path, size) == (f"/v1/{signal}", 0)
    assert headers["content-type"] == "application/x-protobuf"
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer key", "7")


def test_signal_headers_replace_general_headers():
    with http_receiver() as receiver:
        own = {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-tenant=8"}
        probe({ENDPOINT: receiver.url, HEADERS: "x-tenant=7", **own})
    assert receiver.requests[0][1]["x-tenant"] == "8"


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    ("host", "detail", "remedy"),
    [
        ("http://127.0.0.1", "connection refused", "Start the receiver"),
        ("http://no-such-host.invalid", "the host name cannot be resolved", "Correct the host"),
    ],
)
def test_probe_explains_unreachable_receiver(protocol, host, detail, remedy):
    check = probe({ENDPOINT: f"{host}:{free_port()}", PROTOCOL: protocol})
    assert check.status == "fail"
    assert check.detail.endswith(detail)
    assert check.remedy.startswith(remedy)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_probe_reports_receiver_that_does_not_respond(protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        check = probe({ENDPOINT: address, PROTOCOL: protocol})
    assert (check.status, check.detail.rpartition(": ")[2]) == ("fail", "no response in time")


def test_grpc_probe_reports_missing_service_of_trace_only_receiver():
    with grpc_receiver() as receiver:
        environ = {ENDPOINT: receiver.url, PROTOCOL: "grpc", HEADERS: "X-Tenant=7"}
        traces, metrics = probe(environ), probe(environ, "metrics")
    assert (traces.status, metrics.status) == ("ok", "fail")
    assert "UNIMPLEMENTED" not in traces.detail
    assert metrics.detail.endswith("the receiver has no metrics service")
    assert metrics.remedy == (
        "Set OTEL_METRICS_EXPORTER=none if this receiver does not support metrics"
    )
    [(_, metadata, size)] = receiver.requests
    assert (metadata["x-tenant"], size) == ("7", 0)


def test_grpc_probe_reports_rejected_credentials():
    with grpc_receiver(refuse=grpc.StatusCode.UNAUTHENTICATED) as receiver:
        check = probe({ENDPOINT: receiver.url, PROTOCOL: "grpc"})
    assert (check.status, check.remedy[:10]) == ("fail", "Correct OT")
    assert check.detail.endswith("rejected the credentials")


def test_http_probe_recognizes_grpc_receiver():
    with grpc_receiver() as receiver:
        check = probe({ENDPOINT: receiver.url, PROTOCOL: "http/protobuf"})
    assert check.detail.endswith("the server does not support HTTP/1.1")
    assert check.remedy.startswith(f"Set {PROTOCOL}=grpc")


def test_grpc_probe_recognizes_http_receiver():
    with http_receiver() as receiver:
        check = probe({ENDPOINT: receiver.url, PROTOCOL: "grpc"})
    assert check.detail.endswith("the server does not support gRPC")
    assert check.remedy.startswith(f"Set {PROTOCOL}=http/protobuf")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_probe_reports_tls_failure_of_plain_receiver(protocol):
    with http_receiver() as receiver:
        address = receiver.url.replace("http://", "https://")
        check = probe({ENDPOINT: address, PROTOCOL: protocol})
    assert (check.status, check.detail.rpartition(": ")[2]) == ("fail", "the TLS handshake failed")


@pytest.fixture
def tls_receiver(certificate):
    """Start a TLS server that responds to each request with 200."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            try:
                with context.wrap_socket(client, server_side=True) as connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_probe_accepts_private_certificate_only_with_its_variable(certificate, tls_receiver):
    check = probe({ENDPOINT: tls_receiver})
    assert check.detail.endswith("the certificate is not trusted")
    assert check.remedy.startswith("Set OTEL_EXPORTER_OTLP_CERTIFICATE=")
    trusting = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate[1])}
    assert probe({ENDPOINT: tls_receiver, **trusting}).status == "ok"


def test_probe_reports_missing_certificate_file():
    environ = {ENDPOINT: "https://127.0.0.1:1", PROTOCOL: "grpc"}
    check = probe({**environ, "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"})
    assert check.detail.endswith("cannot read /no/such.pem")


@pytest.mark.parametrize(
    ("environ", "llamatelemetry", "status", "detail", "remedy"),
    [
        (
            {ENDPOINT: "http://127.0.0.1:4317", PROTOCOL: "http/protobuf"},
            True,
            "fail",
            "port 4317 is usually grpc, not http/protobuf",
            f"Set {PROTOCOL}=grpc, or port 4318",
        ),
        (
            {ENDPOINT: "http://127.0.0.1:4318", PROTOCOL: "grpc"},
            True,
            "fail",
            "port 4318 is usually http/protobuf, not grpc",
            f"Set {PROTOCOL}=http/protobuf, or port 4317",
        ),
        (
            {**OTLP, ENDPOINT: "http://127.0.0.1:1/v1/traces", PROTOCOL: "http/protobuf"},
            False,
            "fail",
            "the base endpoint is already the full URL of one signal",
            f"Remove the path from {ENDPOINT}",
        ),
        (
            {**OTLP, ENDPOINT: "localhost:4318", PROTOCOL: "http/protobuf"},
            False,
            "fail",
            "has no scheme",
            f"Set {ENDPOINT}=http://localhost:4318",
        ),
        (
            {ENDPOINT: "127.0.0.1:1", PROTOCOL: "grpc"},
            True,
            "fail",
            "gRPC uses TLS for an endpoint without a scheme",
            f"Set {ENDPOINT}=http://127.0.0.1:1",
        ),
        (
            {**OTLP, ENDPOINT: "'http://127.0.0.1:1'", PROTOCOL: "http/protobuf"},
            False,
            "fail",
            "contains quotes or spaces",
            f"Remove them from {ENDPOINT}",
        ),
        (
            {**OTLP, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            False,
            "fail",
            "unknown protocol http/json",
            f"Set {PROTOCOL}=http/protobuf",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "konsole"},
            True,
            "fail",
            "no exporter is named konsole",
            "Set OTEL_TRACES_EXPORTER=console",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            True,
            "fail",
            "no exporter is named zipkin",
            "Set OTEL_TRACES_EXPORTER=otlp",
        ),
    ],
)
def test_exporter_checks_recognize_common_mistakes(environ, llamatelemetry, status, detail, remedy):
    check = probe(environ, llamatelemetry=llamatelemetry)
    assert (check.status, check.remedy) == (status, remedy)
    assert detail in check.detail


def test_file_probe_requires_a_writable_directory(tmp_path):
    environ = {"LLAMATELEMETRY_EXPORTER": "file"}
    new = probe({**environ, "LLAMATELEMETRY_EXPORT_PATH": str(tmp_path / "new" / "deep")})
    assert (new.status, new.detail.rpartition(": ")[2]) == ("ok", "will be created")
    assert list(tmp_path.iterdir()) == []
    occupied = tmp_path / "file"
    occupied.touch()
    for path in (occupied, occupied / "below"):
        assert probe({**environ, "LLAMATELEMETRY_EXPORT_PATH": str(path)}).status == "fail"


def nothing_exported_statuses(environ: dict[str, str], *, llamatelemetry: bool) -> list[str]:
    plans = plans_of(environ, llamatelemetry=llamatelemetry)
    return [check.status for check in nothing_exported(plans, "OTEL_TRACES_EXPORTER")]


def test_missing_exporters_fail_unless_none_was_chosen():
    chosen, other = {"LLAMATELEMETRY_EXPORTER": "none"}, {"OTEL_METRICS_EXPORTER": "none"}
    assert nothing_exported_statuses(chosen, llamatelemetry=True) == ["info"]
    assert nothing_exported_statuses(other, llamatelemetry=True) == []
    # The exporter of the SDK's own configurator is `none` without a variable.
    assert nothing_exported_statuses({}, llamatelemetry=False) == ["fail"]
    assert nothing_exported_statuses(other, llamatelemetry=False) == ["fail"]
    chosen = {"OTEL_TRACES_EXPORTER": "none"}
    assert nothing_exported_statuses(chosen, llamatelemetry=False) == ["info"]


def test_exporter_check_warns_of_unexported_traces_that_the_user_did_not_choose():
    assert probe({"OTEL_TRACES_EXPORTER": "none"}).status == "info"
    assert probe({"OTEL_LOGS_EXPORTER": "none"}, "logs").status == "info"
    [unset] = exporter_checks(plans_of({}, llamatelemetry=False)[0], 1)
    assert (unset.status, unset.detail) == ("warn", "none: not exported")


def test_declarative_checks_report_the_file(tmp_path):
    assert declarative_checks({}) == []
    [missing] = declarative_checks({"OTEL_CONFIG_FILE": str(tmp_path / "no.yaml")})
    assert missing.status == "fail"
    present = tmp_path / "otel.yaml"
    present.touch()
    [found] = declarative_checks({"OTEL_CONFIG_FILE": str(present)})
    assert found.status in (
        "warn",
        "fail",
    )  # depends on whether opentelemetry-configuration is installed
