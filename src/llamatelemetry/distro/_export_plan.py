"""Exporters and endpoints of each signal, derived from the configuration without the SDK.

Without options of llamatelemetry, the SDK's rules apply, with three differences: the default
protocol, the meaning of a full signal URL as the general endpoint, and the exporters `file` and
`prometheus`, which are llamatelemetry's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llamatelemetry.config import OPTIONS, SIGNALS, LlamaTelemetryConfig

GRPC, HTTP = "grpc", "http/protobuf"
_GRPC_PORT = 4317
HTTP_EXPORTER = "otlp_proto_http"
PROMETHEUS_EXPORTER = "llamatelemetry_prometheus"
_ENTRY_POINTS = {GRPC: "otlp_proto_grpc", HTTP: HTTP_EXPORTER, "file": "llamatelemetry_file"}
_PROTOCOLS = {"otlp_proto_grpc": GRPC, HTTP_EXPORTER: HTTP}


class ExportPlan(NamedTuple):
    """The exporters of every signal.

    Attributes:
        exporters: Signal to the names of its exporters' entry points, with the arguments of each.
            An exporter without arguments reads the environment itself.
        warnings: Warnings to log.
    """

    exporters: Mapping[str, Mapping[str, Mapping[str, Any]]]
    warnings: tuple[str, ...]


def plan_exports(config: LlamaTelemetryConfig, environ: Mapping[str, str]) -> ExportPlan:
    """Resolve exporters, protocols and endpoints, with the variables of each signal."""
    plans = {signal: _SignalSettings(signal, config, environ) for signal in SIGNALS}
    exporters = {signal: plan.exporters() for signal, plan in plans.items()}
    warnings = [warning for plan in plans.values() for warning in plan.warnings]
    unexported = [signal for signal, plan in plans.items() if plan.is_unexported]
    if unexported:
        warnings.append(_unexported_warning(config, unexported))
    return ExportPlan(exporters, tuple(warnings))


def is_explicit(config: LlamaTelemetryConfig, name: str) -> bool:
    """Return whether an option was set in code or by LLAMATELEMETRY_*, and so wins over OTEL_*."""
    given = config.option_value(name)
    return given is not None and not given.origin.startswith(("OTEL_", "default"))


class _SignalSettings:
    """The plan of one signal.

    `is_unexported` is `True` if the general endpoint is that of another signal, and this signal
    has none of its own.
    """

    def __init__(self, name: str, config: LlamaTelemetryConfig, environ: Mapping[str, str]) -> None:
        self.name = name
        self.config = config
        self.environ = environ
        self.warnings: list[str] = []
        self.is_unexported = False

    def exporters(self) -> Mapping[str, Mapping[str, Any]]:
        if self.name == "metrics" and not self.config.enable_metrics:
            return {}
        found: dict[str, Mapping[str, Any]] = {}
        for name in self.config.exporters()[self.name]:
            found.update(self._exporter(name))
        return found

    def _exporter(self, name: str) -> dict[str, Mapping[str, Any]]:
        found = self._exporter_without_endpoint(name)
        if found is not None:
            return found
        endpoint, is_full = self._endpoint()
        if self.is_unexported:
            return {}
        protocol = _PROTOCOLS.get(name) or self._protocol(endpoint)
        return {_ENTRY_POINTS[protocol]: self._arguments(protocol, endpoint, is_full)}

    def _exporter_without_endpoint(self, name: str) -> dict[str, Mapping[str, Any]] | None:
        is_traces, is_metrics = self.name == "traces", self.name == "metrics"
        if name == "console-json":
            return {"console": {}}
        if name == "console" and is_explicit(self.config, "exporter"):
            # The SDK's own exporter, with one line for each span instead of its JSON.
            return {name: {"formatter": _console_line()}} if is_traces else {}
        if name in ("file", _ENTRY_POINTS["file"]):
            return {_ENTRY_POINTS["file"]: {"path": self.config.export_path}}
        if name in ("prometheus", PROMETHEUS_EXPORTER):
            return {PROMETHEUS_EXPORTER: {}} if is_metrics else {}
        return None if name == "otlp" or name in _PROTOCOLS else {name: {}}

    def _endpoint(self) -> tuple[str | None, bool]:
        """Return the endpoint, and whether it is this signal's own instead of a base URL."""
        own = self.environ.get(f"OTEL_EXPORTER_OTLP_{self.name.upper()}_ENDPOINT") or None
        general = self.config.otlp_endpoint
        signal = _signal_of(general)
        is_usable = signal in (None, self.name)
        if own is not None and not (is_explicit(self.config, "otlp_endpoint") and is_usable):
            return own, True
        self.is_unexported = general is not None and not is_usable
        return general, signal == self.name

    def _protocol(self, endpoint: str | None) -> str:
        variable = f"OTEL_EXPORTER_OTLP_{self.name.upper()}_PROTOCOL"
        own = self.environ.get(variable, "").strip().lower()
        if own and not is_explicit(self.config, "otlp_protocol"):
            if own in (GRPC, HTTP):
                return own
            self.warnings.append(f"{variable} must be {GRPC} or {HTTP}, got {own!r}. Ignored")
        given = self.config.option_value("otlp_protocol")
        if given is not None and given.origin != "default":
            return str(given.value)
        return GRPC if _port(endpoint) == _GRPC_PORT else HTTP

    def _arguments(self, protocol: str, endpoint: str | None, is_full: bool) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {}
        if endpoint is not None:
            arguments["endpoint"] = _for_exporter(endpoint, protocol, "" if is_full else self.name)
        if is_explicit(self.config, "otlp_headers"):
            arguments["headers"] = dict(self.config.otlp_headers or {})
        return arguments


def _console_line() -> Callable[[Any], str]:
    # Imported here, because it needs the SDK.
    from llamatelemetry.otel.export.console_line import console_line

    return console_line


def _for_exporter(endpoint: str, protocol: str, signal: str) -> str:
    """Return the endpoint for the exporter, with the path of a signal unless that is empty."""
    if protocol == GRPC:
        return endpoint
    if "://" not in endpoint:
        # Without a scheme, `requests` rejects it at each export.
        endpoint = f"http://{endpoint}"
    if not signal:
        return endpoint
    parts = urlsplit(endpoint)  # the query of a receiver, such as a key, comes behind the path
    return parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}").geturl()


def _signal_of(endpoint: str | None) -> str | None:
    """Return the signal of a full signal URL, or `None` for a base URL."""
    path = _split(endpoint).path.rstrip("/")
    return next((signal for signal in SIGNALS if path.endswith(f"/v1/{signal}")), None)


def _port(endpoint: str | None) -> int | None:
    try:
        return _split(endpoint).port
    except ValueError:
        return None


def _split(endpoint: str | None):  # noqa: ANN202 - a private type of urllib
    text = endpoint or ""
    return urlsplit(text if "://" in text else f"//{text}")


def _unexported_warning(config: LlamaTelemetryConfig, signals: list[str]) -> str:
    shown = OPTIONS["otlp_endpoint"].shown(config.otlp_endpoint)  # without a password
    variables = " and ".join(f"OTEL_EXPORTER_OTLP_{name.upper()}_ENDPOINT" for name in signals)
    return (
        f"The endpoint {shown} accepts only {_signal_of(config.otlp_endpoint)}: "
        f"{' and '.join(signals)} are not exported. Set {variables}, or use a base URL "
        "without /v1/..."
    )
