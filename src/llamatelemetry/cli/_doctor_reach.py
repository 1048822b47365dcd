"""Whether an exporter's target takes telemetry: one real, empty export per signal.

An empty OTLP request is zero bytes long in every version of the protocol, so neither probe
needs the message classes. The same HTTP library and the same gRPC channel as the exporters
of the SDK are used, so that proxies, certificates and names are treated alike.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.instrumentation.utils import suppress_instrumentation

from llamatelemetry.cli._doctor_check import Check, Status
from llamatelemetry.cli._doctor_exporters import GRPC, SECTION, SignalPlan, hint_on, mistake_in
from llamatelemetry.cli._doctor_loading import installed_entry_points


class Outcome(NamedTuple):
    """What a probe found. ``{signal}`` and ``{SIGNAL}`` in the texts are filled in later."""

    status: Status
    detail: str
    remedy: str = ""
    certain: bool = False
    """The cause is known: the address itself need not be doubted."""


_GRPC_INSTEAD = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or the receiver's HTTP port (usually 4318)"
_HTTP_INSTEAD = (
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the receiver's gRPC port (usually 4317)"
)
_NO_SUCH_SIGNAL = "OTEL_{SIGNAL}_EXPORTER=none if this receiver takes no {signal}"
_SERVER_LOG = "read the receiver's own log"

_ACCEPTED = Outcome("ok", "an empty export was accepted")
_BUSY = Outcome("warn", "the receiver is there but busy; exporters try again")
_REFUSED = Outcome(
    "fail",
    "connection refused",
    "start the receiver there, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
    " (inside a container, localhost is the container itself)",
)
_NO_NAME = Outcome(
    "fail",
    "the host name does not resolve",
    "correct the host in OTEL_EXPORTER_OTLP_ENDPOINT",
    True,
)
_NO_ANSWER = Outcome("fail", "no answer in time", "look for a firewall or proxy on the way there")
_UNTRUSTED = Outcome(
    "fail",
    "the certificate is not trusted",
    "OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/the/receiver's/ca.pem",
    certain=True,
)
_NO_TLS = Outcome("fail", "TLS fails", "an address with http:// if the receiver has no TLS")
_CREDENTIALS = Outcome(
    "fail",
    "the receiver refuses the credentials",
    "correct OTEL_EXPORTER_OTLP_HEADERS (name=value,name=value)",
    certain=True,
)
_NOT_HTTP = Outcome("fail", "the other side does not speak HTTP/1.1", _GRPC_INSTEAD)
_NOT_GRPC = Outcome("fail", "the other side does not speak gRPC", _HTTP_INSTEAD)


def exporter_checks(plan: SignalPlan, timeout_s: float) -> list[Check]:
    """Where `plan` sends its signal, and whether that is taken there."""
    group = f"opentelemetry_{plan.signal}_exporter"
    mistake = mistake_in(plan, {each.name for each in installed_entry_points(group)})
    if mistake is not None:
        return [mistake]
    status, found, advice, certain = _probe(plan, timeout_s)
    detail, remedy = (_filled(text, plan.signal) for text in (found, advice))
    detail = f"{plan.shown}: {detail}"
    reason, better = hint_on(plan) if status == "fail" and not certain else ("", "")
    if reason:
        detail, remedy = f"{detail}; {reason}", better
    return [Check(SECTION, status, plan.signal, detail, remedy)]


def _filled(text: str, signal: str) -> str:
    return text.replace("{signal}", signal).replace("{SIGNAL}", signal.upper())


def _probe(plan: SignalPlan, timeout_s: float) -> Outcome:
    if plan.kind == "otlp":
        return (_probe_grpc if plan.protocol == GRPC else _probe_http)(plan, timeout_s)
    if plan.kind == "file":
        return _probe_folder(plan.path)
    return {
        "console": Outcome("ok", "printed by the program itself"),
        "none": Outcome("warn" if plan.signal == "traces" else "info", "not exported"),
    }.get(plan.kind, Outcome("info", "an exporter of another package, not tried"))


_BY_STATUS: Mapping[int, Outcome] = {
    400: Outcome("warn", "the receiver is there, but does not like an empty export"),
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: Outcome("fail", "nothing takes {signal} at this path", _NO_SUCH_SIGNAL),
    405: Outcome("fail", "nothing takes {signal} at this path", _NO_SUCH_SIGNAL),
    415: Outcome("fail", "the receiver takes no protobuf here", _GRPC_INSTEAD),
    429: _BUSY,
    503: _BUSY,
}

# requests wraps urllib3, urllib3 wraps http.client and ssl: the class that says what
# happened is somewhere in the chain. The first row with a class of the chain counts.
_BY_ERROR: tuple[tuple[set[str], Outcome], ...] = (
    ({"SSLCertVerificationError"}, _UNTRUSTED),
    ({"SSLError"}, _NO_TLS),
    ({"ProxyError"}, Outcome("fail", "the proxy fails", "add this host to NO_PROXY")),
    ({"NameResolutionError", "gaierror"}, _NO_NAME),
    ({"ConnectTimeoutError", "ReadTimeoutError", "ConnectTimeout", "ReadTimeout"}, _NO_ANSWER),
    ({"ConnectionRefusedError"}, _REFUSED),
    ({"BadStatusLine", "RemoteDisconnected", "ConnectionResetError", "LineTooLong"}, _NOT_HTTP),
    (
        {"MissingSchema", "InvalidSchema", "InvalidURL", "LocationParseError"},
        Outcome("fail", "this is not a URL", "OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4318"),
    ),
)


def _probe_http(plan: SignalPlan, timeout_s: float) -> Outcome:
    """POST as the exporter would, which follows no redirect either."""
    try:
        requests: Any = importlib.import_module("requests")
    except ImportError:
        return Outcome("fail", "the HTTP exporter needs requests", "pip install requests")
    pair = (plan.client_certificate, plan.client_key)
    try:
        with suppress_instrumentation(), requests.Session() as session:
            response = session.post(
                plan.endpoint,
                data=b"",
                headers={"content-type": "application/x-protobuf", **plan.headers},
                timeout=timeout_s,
                allow_redirects=False,
                verify=plan.certificate or True,
                cert=pair if all(pair) else plan.client_certificate,
            )
    except (requests.RequestException, OSError, ValueError) as error:
        return _http_error(error)
    return _http_answer(int(response.status_code), str(response.headers.get("location", "")))


def _http_answer(status: int, location: str) -> Outcome:
    if 200 <= status < 300:
        return _ACCEPTED
    if 300 <= status < 400:
        detail = f"{status}, a redirect to {location}, which exporters do not follow"
        return Outcome("fail", detail, "use that address")
    known = _BY_STATUS.get(status, Outcome("fail", "the receiver fails", _SERVER_LOG))
    return known._replace(detail=f"{status}, {known.detail}")


def _http_error(error: Exception) -> Outcome:
    kinds = {type(each).__name__ for each in _causes(error)}
    outcome = next((each for names, each in _BY_ERROR if kinds & names), None)
    return outcome or Outcome("fail", f"cannot connect ({type(error).__name__})", _REFUSED.remedy)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it was raised from, and what urllib3 keeps in ``reason`` and ``args``."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


_SERVICES = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

# Looked for in the status code and its text, lower case; the first row counts.
_BY_WORDS: tuple[tuple[tuple[str, ...], Outcome], ...] = (
    (("unauthenticated", "permission_denied"), _CREDENTIALS),
    (("unimplemented",), Outcome("fail", "nothing takes {signal} there", _NO_SUCH_SIGNAL)),
    (("resource_exhausted",), _BUSY),
    (("dns resolution", "name resolution", "lookup"), _NO_NAME),
    (("certificate_verify", "unable to get local issuer"), _UNTRUSTED),
    (("handshake", "ssl", "tls"), _NO_TLS),
    (("connection refused",), _REFUSED),
    (("http1", "http/1", "settings frame", "http2 header with status"), _NOT_GRPC),
    (("deadline_exceeded", "timed out", "timeout"), _NO_ANSWER),
    (("unavailable",), Outcome("fail", "cannot connect", _HTTP_INSTEAD)),
)


def _probe_grpc(plan: SignalPlan, timeout_s: float) -> Outcome:
    """Open a channel and call Export once with an empty request."""
    try:
        grpc: Any = importlib.import_module("grpc")
    except ImportError:
        return Outcome("fail", "the gRPC exporter needs grpcio", "pip install grpcio")
    try:
        channel = _open_channel(grpc, plan)
    except OSError as error:
        detail = f"cannot read {error.filename}"
        return Outcome("fail", detail, "correct OTEL_EXPORTER_OTLP_CERTIFICATE")
    try:
        export = channel.unary_unary(_SERVICES[plan.signal])
        export(b"", timeout=timeout_s, metadata=tuple(plan.headers.items()))
    except grpc.RpcError as error:
        return _grpc_error(error.code().name, str(error.details() or ""))
    except ValueError:  # header names or values that gRPC does not allow
        return Outcome("fail", "gRPC does not allow these headers", _CREDENTIALS.remedy)
    finally:
        channel.close()
    return _ACCEPTED


def _open_channel(grpc: Any, plan: SignalPlan) -> Any:
    if plan.insecure:
        return grpc.insecure_channel(plan.target)
    files = (plan.certificate, plan.client_key, plan.client_certificate)
    root, key, chain = (Path(each).read_bytes() if each else None for each in files)
    return grpc.secure_channel(plan.target, grpc.ssl_channel_credentials(root, key, chain))


def _grpc_error(code: str, details: str) -> Outcome:
    text = f"{code} {details}".lower()
    found = next((each for words, each in _BY_WORDS if any(word in text for word in words)), None)
    return found or Outcome("fail", f"{code}, the receiver fails", _SERVER_LOG)


def _probe_folder(path: str) -> Outcome:
    """Whether files can be written to `path`, found out without making anything."""
    folder = Path(path).absolute()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    remedy = "LLAMATELEMETRY_EXPORT_PATH=a folder that can be written to"
    if not existing.is_dir():
        return Outcome("fail", f"{existing} is a file, not a folder", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Outcome("fail", f"{existing} cannot be written to", remedy)
    return Outcome("ok", "can be written to" if existing == folder else "will be made")
