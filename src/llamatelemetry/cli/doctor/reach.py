"""Test whether an endpoint accepts telemetry, by one empty export per signal.

An empty OTLP request has zero bytes in every version of the protocol, so the probes need no
message classes. They use the same HTTP library and gRPC channel as the SDK's exporters, so that
proxies, certificates and names are handled in the same way.
"""

from __future__ import annotations

import gzip
import importlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.instrumentation.utils import suppress_instrumentation

from llamatelemetry.cli.doctor.check import Check, Effect, Status
from llamatelemetry.cli.doctor.exporters import GRPC, SignalPlan, hint_on, mistake_in
from llamatelemetry.cli.doctor.loading import installed_entry_points
from llamatelemetry.config import SIGNALS, mask_url


class ProbeResult(NamedTuple):
    """Result of a probe. `{signal}` and `{SIGNAL}` in its texts are placeholders."""

    status: Status
    detail: str
    remedy: str = ""
    certain: bool = False  # whether the cause is known, so that the endpoint is not suspected


_GRPC_INSTEAD = "Set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or the receiver's HTTP port (usually 4318)"
_HTTP_INSTEAD = (
    "Set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the receiver's gRPC port (usually 4317)"
)
_NO_SUCH_SIGNAL = "Set OTEL_{SIGNAL}_EXPORTER=none if this receiver does not support {signal}"
_NO_RECEIVER = "Set OTEL_EXPORTER_OTLP_ENDPOINT to the base URL of an OTLP receiver"
_SERVER_LOG = "Check the receiver's log"

_ACCEPTED = ProbeResult("ok", "an empty export was accepted")
_BUSY = ProbeResult("warn", "the receiver is overloaded; exporters retry")
_REFUSED = ProbeResult(
    "fail",
    "connection refused",
    "Start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
    " (inside a container, localhost is the container)",
)
_NO_NAME = ProbeResult(
    "fail",
    "the host name cannot be resolved",
    "Correct the host in OTEL_EXPORTER_OTLP_ENDPOINT",
    True,
)
_NO_ANSWER = ProbeResult("fail", "no response in time", "Check for a firewall or proxy on the path")
_UNTRUSTED = ProbeResult(
    "fail",
    "the certificate is not trusted",
    "Set OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/ca.pem (the CA of the receiver)",
    certain=True,
)
_NO_TLS = ProbeResult(
    "fail", "the TLS handshake failed", "Use an http:// endpoint if the receiver has no TLS"
)
_CREDENTIALS = ProbeResult(
    "fail",
    "the receiver rejected the credentials",
    "Correct OTEL_EXPORTER_OTLP_HEADERS (name=value,name=value)",
    certain=True,
)
_NOT_HTTP = ProbeResult("fail", "the server does not support HTTP/1.1", _GRPC_INSTEAD)
_NOT_GRPC = ProbeResult("fail", "the server does not support gRPC", _HTTP_INSTEAD)


def exporter_checks(plan: SignalPlan, timeout_s: float) -> list[Check]:
    """Return whether the exporter of one signal can export."""
    group = f"opentelemetry_{plan.signal}_exporter"
    mistake = mistake_in(plan, {each.name for each in installed_entry_points(group)})
    if mistake is not None:
        return [mistake]
    status, found, advice, certain = _probe(plan, timeout_s)
    detail, remedy = (
        text.replace("{signal}", plan.signal).replace("{SIGNAL}", plan.signal.upper())
        for text in (found, advice)
    )
    detail = f"{plan.shown}: {detail}"
    reason, better = hint_on(plan) if status == "fail" and not certain else ("", "")
    if reason:
        detail, remedy = f"{detail}; {reason}", better
    return [Check(status, plan.signal, detail, remedy, effect=_effect(plan, status))]


def _effect(plan: SignalPlan, status: Status) -> Effect:
    if plan.kind in ("none", "other"):
        return "off" if plan.kind == "none" else "unknown"
    return "fails" if status == "fail" else "arrives"


def without_disabling_all(checks: Sequence[Check]) -> list[Check]:
    """Return the checks of all signals, without the advice to disable each of them.

    If a server has no path for any signal, it is not an OTLP receiver.
    """
    failed = [check for check in checks if check.effect in ("fails", "arrives")]
    remedies = {_NO_SUCH_SIGNAL.format(signal=s, SIGNAL=s.upper()) for s in SIGNALS}
    if not failed or any(check.remedy not in remedies for check in failed):
        return list(checks)
    return [replace(c, remedy=_NO_RECEIVER) if c.remedy in remedies else c for c in checks]


def _probe(plan: SignalPlan, timeout_s: float) -> ProbeResult:
    if plan.kind == "otlp":
        return (_probe_grpc if plan.protocol == GRPC else _probe_http)(plan, timeout_s)
    if plan.kind == "file":
        return _probe_directory(plan.path)
    if plan.kind == "none":
        is_oversight = plan.signal == "traces" and not plan.name
        return ProbeResult("warn" if is_oversight else "info", "not exported")
    if plan.kind == "console":
        return ProbeResult("ok", "printed to stdout by the application")
    if plan.kind == "prometheus":
        return ProbeResult("ok", "served by the application; the next free port if in use")
    return ProbeResult("info", "an exporter of another package, not tested")


_BY_STATUS: Mapping[int, ProbeResult] = {
    400: ProbeResult("warn", "the receiver responds, but rejects an empty export"),
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: ProbeResult("fail", "the receiver has no {signal} endpoint at this path", _NO_SUCH_SIGNAL),
    405: ProbeResult("fail", "the receiver has no {signal} endpoint at this path", _NO_SUCH_SIGNAL),
    415: ProbeResult("fail", "the receiver does not accept protobuf here", _GRPC_INSTEAD),
    429: _BUSY,
    503: _BUSY,
}

# requests wraps errors of urllib3, and urllib3 those of http.client and ssl. The class that names
# the cause is somewhere in the chain. The first row with a class of the chain is used.
_BY_ERROR: tuple[tuple[set[str], ProbeResult], ...] = (
    ({"SSLCertVerificationError"}, _UNTRUSTED),
    ({"SSLError"}, _NO_TLS),
    ({"ProxyError"}, ProbeResult("fail", "the proxy failed", "Add this host to NO_PROXY")),
    ({"NameResolutionError", "gaierror"}, _NO_NAME),
    ({"ConnectTimeoutError", "ReadTimeoutError", "ConnectTimeout", "ReadTimeout"}, _NO_ANSWER),
    ({"ConnectionRefusedError"}, _REFUSED),
    ({"BadStatusLine", "RemoteDisconnected", "ConnectionResetError", "LineTooLong"}, _NOT_HTTP),
    (
        {"MissingSchema", "InvalidSchema", "InvalidURL", "LocationParseError"},
        ProbeResult("fail", "not a URL", "Set OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4318"),
    ),
)


def _probe_http(plan: SignalPlan, timeout_s: float) -> ProbeResult:
    """Send an empty POST. Like the exporter, it does not follow redirects."""
    try:
        requests: Any = importlib.import_module("requests")
    except ImportError:
        return ProbeResult("fail", "the HTTP exporter needs requests", "Run: pip install requests")
    pair = (plan.client_certificate, plan.client_key)
    body, encoding = _compressed(plan.compression)
    try:
        with suppress_instrumentation(), requests.Session() as session:
            # As the exporter does: REQUESTS_CA_BUNDLE overrides the certificate of a session, but
            # not that of a request.
            session.verify = plan.certificate or True
            session.cert = pair if all(pair) else plan.client_certificate
            response = session.post(
                plan.endpoint,
                data=body,
                headers={"content-type": "application/x-protobuf", **encoding, **plan.headers},
                timeout=timeout_s,
                allow_redirects=False,
            )
    except (requests.RequestException, OSError, ValueError) as error:
        return _http_error(error)
    return _http_result(int(response.status_code), str(response.headers.get("location", "")))


def _compressed(compression: str) -> tuple[bytes, dict[str, str]]:
    """Return an empty body and the header of its encoding."""
    if compression not in ("gzip", "deflate"):
        return b"", {}
    body = gzip.compress(b"") if compression == "gzip" else zlib.compress(b"")
    return body, {"content-encoding": compression}


def _http_result(status: int, location: str) -> ProbeResult:
    if 200 <= status < 300:
        return _ACCEPTED
    if 300 <= status < 400:
        target = mask_url(location)
        detail = f"{status}, a redirect to {target}; exporters do not follow redirects"
        return ProbeResult("fail", detail, f"Set the endpoint to {target}")
    known = _BY_STATUS.get(status, ProbeResult("fail", "the receiver failed", _SERVER_LOG))
    return known._replace(detail=f"{status}, {known.detail}")


def _http_error(error: Exception) -> ProbeResult:
    kinds = {type(each).__name__ for each in _causes(error)}
    result = next((each for names, each in _BY_ERROR if kinds & names), None)
    bundle = next((name for name in _BUNDLES if os.environ.get(name)), None)
    if bundle is not None and (result is _UNTRUSTED or "certificate bundle" in str(error)):
        remedy = f"Unset {bundle}, or add the CA to it: it overrides OTEL_EXPORTER_OTLP_CERTIFICATE"
        return _UNTRUSTED._replace(remedy=remedy)
    return result or ProbeResult(
        "fail", f"cannot connect ({type(error).__name__})", _REFUSED.remedy
    )


_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes, and the errors that urllib3 keeps in `reason` and `args`."""
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

# Searched in the lowercase status code and message. The first row that matches is used.
_BY_WORDS: tuple[tuple[tuple[str, ...], ProbeResult], ...] = (
    (("unauthenticated", "permission_denied"), _CREDENTIALS),
    (
        ("unimplemented",),
        ProbeResult("fail", "the receiver has no {signal} service", _NO_SUCH_SIGNAL),
    ),
    (("resource_exhausted",), _BUSY),
    (("dns resolution", "name resolution", "lookup"), _NO_NAME),
    (("certificate_verify", "unable to get local issuer"), _UNTRUSTED),
    (("handshake", "ssl", "tls"), _NO_TLS),
    (("connection refused",), _REFUSED),
    (("http1", "http/1", "settings frame", "http2 header with status"), _NOT_GRPC),
    (("deadline_exceeded", "timed out", "timeout"), _NO_ANSWER),
    (("unavailable",), ProbeResult("fail", "cannot connect", _HTTP_INSTEAD)),
)


def _probe_grpc(plan: SignalPlan, timeout_s: float) -> ProbeResult:
    """Call Export once with an empty request."""
    try:
        grpc: Any = importlib.import_module("grpc")
    except ImportError:
        return ProbeResult("fail", "the gRPC exporter needs grpcio", "Run: pip install grpcio")
    try:
        channel = _open_channel(grpc, plan)
    except OSError as error:
        detail = f"cannot read {error.filename}"
        return ProbeResult("fail", detail, "Correct OTEL_EXPORTER_OTLP_CERTIFICATE")
    try:
        export = channel.unary_unary(_SERVICES[plan.signal])
        compression = grpc.Compression.Gzip if plan.compression == "gzip" else None
        metadata = tuple(plan.headers.items())
        export(b"", timeout=timeout_s, metadata=metadata, compression=compression)
    except grpc.RpcError as error:
        return _grpc_error(error.code().name, str(error.details() or ""))
    except ValueError:  # invalid header names or values
        return ProbeResult("fail", "these headers are invalid in gRPC", _CREDENTIALS.remedy)
    finally:
        channel.close()
    return _ACCEPTED


def _open_channel(grpc: Any, plan: SignalPlan) -> Any:
    if plan.insecure:
        return grpc.insecure_channel(plan.target)
    files = (plan.certificate, plan.client_key, plan.client_certificate)
    root, key, chain = (Path(each).read_bytes() if each else None for each in files)
    return grpc.secure_channel(plan.target, grpc.ssl_channel_credentials(root, key, chain))


def _grpc_error(code: str, details: str) -> ProbeResult:
    text = f"{code} {details}".lower()
    found = next((each for words, each in _BY_WORDS if any(word in text for word in words)), None)
    return found or ProbeResult("fail", f"{code}, the receiver failed", _SERVER_LOG)


def _probe_directory(path: str) -> ProbeResult:
    """Return whether files can be written to `path`, without creating anything."""
    directory = Path(path).absolute()
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    remedy = "Set LLAMATELEMETRY_EXPORT_PATH to a writable directory"
    if not existing.is_dir():
        return ProbeResult("fail", f"{existing} is not a directory", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return ProbeResult("fail", f"{existing} is not writable", remedy)
    return ProbeResult("ok", "writable" if existing == directory else "will be created")
