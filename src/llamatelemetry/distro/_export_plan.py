"""Where each signal goes: pure reading of the configuration, without the SDK.

The SDK's own rules are kept where nothing of ours was given; they differ in the default
protocol, in what a full signal URL as the general endpoint means, and in the exporter `file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llamatelemetry.config import OPTIONS, SIGNALS, LlamaTelemetryConfig

GRPC, HTTP = "grpc", "http/protobuf"
_GRPC_PORT = 4317
_ENTRY_POINTS = {GRPC: "otlp_proto_grpc", HTTP: "otlp_proto_http", "file": "llamatelemetry_file"}
_PROTOCOLS = {"otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}


@dataclass(frozen=True)
class SignalExport:
    """The exporters of one signal."""

    exporters: Mapping[str, Mapping[str, Any]]
    """Name of the entry point to the arguments of the exporter that differ from its own
    reading of the environment."""


@dataclass(frozen=True)
class ExportPlan:
    """The exporters of every signal, and what the user should be told about them."""

    signals: Mapping[str, SignalExport]
    warnings: tuple[str, ...] = ()


def plan_exports(config: LlamaTelemetryConfig, environ: Mapping[str, str]) -> ExportPlan:
    """Resolves exporters, protocols and endpoints.

    Args:
        config: an effective one.
        environ: for OpenTelemetry's variables of a single signal.
    """
    plans = {signal: _Signal(signal, config, environ) for signal in SIGNALS}
    exports = {signal: plan.exports() for signal, plan in plans.items()}
    warnings = [warning for plan in plans.values() for warning in plan.warnings]
    warnings += _nowhere_warning(config, list(plans.values()))
    return ExportPlan(exports, tuple(warnings))


def is_explicit(config: LlamaTelemetryConfig, name: str) -> bool:
    """Whether an option was given in code or by a variable of ours, which then wins over OTEL_*."""
    given = config.option_value(name)
    return given is not None and not given.origin.startswith(("OTEL_", "default"))


@dataclass
class _Signal:
    """The reading of one signal."""

    name: str
    config: LlamaTelemetryConfig
    environ: Mapping[str, str]
    warnings: list[str] = field(default_factory=list[str])
    nowhere: bool = False
    """The general endpoint is another signal's, and this one has none of its own."""

    def exports(self) -> SignalExport:
        if self.name == "metrics" and not self.config.enable_metrics:
            return SignalExport({})
        found: dict[str, Mapping[str, Any]] = {}
        for name in self.config.exporters()[self.name]:
            found.update(self._exporter(name))
        return SignalExport(found)

    def _exporter(self, name: str) -> dict[str, Mapping[str, Any]]:
        if name in ("file", _ENTRY_POINTS["file"]):
            return {_ENTRY_POINTS["file"]: {"path": self.config.export_path}}
        if name != "otlp" and name not in _PROTOCOLS:
            return {name: {}}
        endpoint, is_full = self._endpoint()
        if self.nowhere:
            return {}
        protocol = _PROTOCOLS.get(name) or self._protocol(endpoint)
        return {_ENTRY_POINTS[protocol]: self._arguments(protocol, endpoint, is_full)}

    def _endpoint(self) -> tuple[str | None, bool]:
        """The endpoint, and whether it is this signal's own rather than a base URL."""
        own = self.environ.get(f"OTEL_EXPORTER_OTLP_{self.name.upper()}_ENDPOINT") or None
        general = self.config.otlp_endpoint
        signal = _signal_of(general)
        serves_us = signal in (None, self.name)
        if own is not None and not (is_explicit(self.config, "otlp_endpoint") and serves_us):
            return own, True
        self.nowhere = general is not None and not serves_us
        return general, signal == self.name

    def _protocol(self, endpoint: str | None) -> str:
        variable = f"OTEL_EXPORTER_OTLP_{self.name.upper()}_PROTOCOL"
        own = self.environ.get(variable, "").strip().lower()
        if own and not is_explicit(self.config, "otlp_protocol"):
            if own in (GRPC, HTTP):
                return own
            self.warnings.append(
                f"{variable}={own!r} is not accepted; expected {GRPC} or {HTTP}; it is not used"
            )
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


def _for_exporter(endpoint: str, protocol: str, signal: str) -> str:
    """The endpoint as the exporter wants it; `signal` when its path is to be added."""
    if protocol == GRPC:
        return endpoint
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"  # else `requests` refuses it at each export
    return f"{endpoint.rstrip('/')}/v1/{signal}" if signal else endpoint


def _signal_of(endpoint: str | None) -> str | None:
    """The signal whose full URL this is, if it is one."""
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


def _nowhere_warning(config: LlamaTelemetryConfig, plans: list[_Signal]) -> list[str]:
    left_out = [plan.name for plan in plans if plan.nowhere]
    if not left_out:
        return []
    shown = OPTIONS["otlp_endpoint"].shown(config.otlp_endpoint)  # without a password
    variables = " and ".join(f"OTEL_EXPORTER_OTLP_{name.upper()}_ENDPOINT" for name in left_out)
    message = (
        f"The endpoint {shown} takes {_signal_of(config.otlp_endpoint)} only: "
        f"{' and '.join(left_out)} are not exported. Set {variables}, or give a base URL "
        "without /v1/..."
    )
    return [message]
