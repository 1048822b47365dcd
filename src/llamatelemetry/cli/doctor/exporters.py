"""The exporter of each signal: endpoint, headers, and common configuration mistakes.

This module only reads configuration and environment. `reach` sends a test export.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from llamatelemetry.cli.doctor.check import Check, is_true, nearest
from llamatelemetry.config import SIGNALS, LlamaTelemetryConfig, mask_url
from llamatelemetry.config.declarative import load_config_file

GRPC, HTTP = "grpc", "http/protobuf"
NO_EXPORT = "no signal is exported, as configured"
_PROTOCOL_OF = {"otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
_DEFAULT_ENDPOINT = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_PROVIDER_VARIABLES = {
    "traces": "OTEL_PYTHON_TRACER_PROVIDER",
    "metrics": "OTEL_PYTHON_METER_PROVIDER",
}
_EMPTY_PROVIDERS = (
    *("sdk_tracer_provider", "sdk_meter_provider"),
    *("default_tracer_provider", "default_meter_provider"),
)
_USUAL_PORT = {GRPC: 4317, HTTP: 4318}


@dataclass(frozen=True)
class SignalPlan:
    """One exporter of one signal.

    Attributes:
        kind: `otlp`, `console`, `file`, `prometheus`, `none` or `other`.
        name: Entry point name of the exporter; empty if no variable or option names one.
        endpoint: Endpoint as the exporter gets it: for HTTP, the full URL.
        insecure: Whether a gRPC channel is opened without TLS.
        certificate: Path of the CA certificate.
        compression: `gzip`, `deflate`, or empty for none.
        path: Directory of the file exporter.
        is_sdk: Whether the SDK's own configurator creates the exporter.
    """

    signal: str
    kind: str
    name: str = ""
    protocol: str = ""
    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    insecure: bool = False
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    compression: str = ""
    path: str = ""
    is_sdk: bool = False

    @property
    def target(self) -> str:
        """Target of the gRPC channel: host and port of a URL, else the endpoint itself."""
        return urlsplit(self.endpoint).netloc or self.endpoint

    @property
    def shown(self) -> str:
        """Exporter and endpoint as text, without credentials."""
        if self.kind == "otlp":
            return f"{self.protocol} to {mask_url(self.endpoint)}"
        if self.kind == "prometheus":
            return f"{self.kind} at {self.endpoint}"
        return f"{self.kind} ({self.path})" if self.kind == "file" else self.name or self.kind


def llamatelemetry_plans(
    config: LlamaTelemetryConfig, environ: Mapping[str, str]
) -> tuple[list[SignalPlan], list[Check]]:
    """Return the exporters that llamatelemetry's configurator would create, and its warnings."""
    # Imported here: a plugin that is installed alone has neither the distro nor the SDK.
    from llamatelemetry.distro import plan_exports

    export = plan_exports(config, environ)
    plans: list[SignalPlan] = []
    for signal in SIGNALS:
        named = export.exporters[signal]
        plans += [_plan(signal, name, environ, arguments) for name, arguments in named.items()]
        if not named:
            is_chosen = not config.exporters()[signal]
            plans.append(SignalPlan(signal, "none", "none" if is_chosen else ""))
    return plans, [Check("warn", "all", warning) for warning in export.warnings]


def sdk_plans(environ: Mapping[str, str]) -> list[SignalPlan]:
    """Return the exporters that the SDK's own configurator would create.

    It ignores `LLAMATELEMETRY_*`. If the base endpoint is the full URL of one signal, it appends
    a second path: `/v1/traces/v1/traces`.
    """
    plans: list[SignalPlan] = []
    for signal in SIGNALS:
        names = [
            name.strip() for name in environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")
        ]
        named = [name for name in names if name and name.lower() != "none"]
        plans += [replace(_plan(signal, name, environ, {}), is_sdk=True) for name in named]
        if not named:
            plans.append(SignalPlan(signal, "none", "none" if any(names) else ""))
    return plans


def _plan(
    signal: str, name: str, environ: Mapping[str, str], arguments: Mapping[str, Any]
) -> SignalPlan:
    """Return the plan for an entry point name. `arguments` override the environment."""
    own = _Variables(signal, environ)
    if name == "otlp" or name in _PROTOCOL_OF:
        protocol = _PROTOCOL_OF.get(name) or (own.either("PROTOCOL") or GRPC).strip()
        return _otlp_plan(own, name, protocol, arguments)
    if name == "console":
        return SignalPlan(signal, "console", name)
    if name == "llamatelemetry_file":
        return SignalPlan(signal, "file", name, path=str(arguments.get("path") or "."))
    if name == "llamatelemetry_prometheus":
        host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost"
        port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
        return SignalPlan(signal, "prometheus", name, endpoint=f"http://{host}:{port}/metrics")
    return SignalPlan(signal, "other", name)


def _otlp_plan(
    own: _Variables, name: str, protocol: str, arguments: Mapping[str, Any]
) -> SignalPlan:
    endpoint = str(arguments.get("endpoint") or own.get("ENDPOINT") or own.address(protocol))
    headers = _parse_headers(own.either("HEADERS") or "")
    explicit: Mapping[str, str] | None = arguments.get("headers")
    if explicit is not None:
        # The HTTP exporter adds them to those of the environment.
        headers = explicit if protocol == GRPC else {**headers, **explicit}
    compression = (own.either("COMPRESSION") or "").strip().lower()
    return SignalPlan(
        own.signal,
        "otlp",
        name,
        protocol=protocol,
        endpoint=endpoint,
        headers=headers,
        insecure=_insecure(endpoint, own.either("INSECURE")),
        certificate=own.either("CERTIFICATE"),
        client_key=own.either("CLIENT_KEY"),
        client_certificate=own.either("CLIENT_CERTIFICATE"),
        compression="" if compression == "none" else compression,
    )


def _parse_headers(text: str) -> Mapping[str, str]:
    # OpenTelemetry logs invalid headers with their values.
    logger = logging.getLogger(parse_env_headers.__module__)
    was_disabled, logger.disabled = logger.disabled, True
    try:
        return parse_env_headers(text, liberal=True)
    finally:
        logger.disabled = was_disabled


@dataclass(frozen=True)
class _Variables:
    """The `OTEL_EXPORTER_OTLP_*` variables of one signal."""

    signal: str
    environ: Mapping[str, str]

    def get(self, name: str) -> str | None:
        return self.environ.get(f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{name}") or None

    def either(self, name: str) -> str | None:
        return self.get(name) or self.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or None

    def address(self, protocol: str) -> str:
        """Return the general endpoint as the SDK's exporter interprets it."""
        base = self.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULT_ENDPOINT.get(
            protocol, ""
        )
        return base if protocol == GRPC else f"{base.removesuffix('/')}/v1/{self.signal}"


def _insecure(endpoint: str, variable: str | None) -> bool:
    """Return whether the gRPC exporter would use no TLS.

    Its rule: `https` means TLS; otherwise the variable decides; otherwise `http` means no TLS.
    """
    scheme = urlsplit(endpoint).scheme
    if scheme == "https":
        return False
    return is_true(variable) if variable is not None else scheme == "http"


def mistake_in(plan: SignalPlan, known: Collection[str]) -> Check | None:
    """Return a failure that is certain without a test export; `known` are the installed exporters."""
    if plan.kind == "other" and plan.name not in known:
        return _unknown_exporter(plan, known)
    if plan.kind != "otlp":
        return None
    if plan.protocol not in (GRPC, HTTP):
        detail = f"unknown protocol {plan.protocol}: the SDK fails to start"
        remedy = f"Set OTEL_EXPORTER_OTLP_PROTOCOL={HTTP}"
        return Check("fail", plan.signal, detail, remedy, effect="fails")
    return _mistake_in_address(plan)


def _mistake_in_address(plan: SignalPlan) -> Check | None:
    signal, address, variable = plan.signal, plan.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT"
    if set(address) & set("\"' \t"):
        detail = f"the endpoint {plan.shown} contains quotes or spaces"
        return Check("fail", signal, detail, f"Remove them from {variable}", effect="fails")
    if plan.protocol == HTTP and "://" not in address:
        shown = mask_url(address)
        remedy = f"Set {variable}=http://{shown.split('/')[0]}"
        detail = f"the endpoint {shown} has no scheme"
        return Check("fail", signal, detail, remedy, effect="fails")
    return None


def nothing_exported(plans: Sequence[SignalPlan], variable: str) -> list[Check]:
    """Return a check if no signal has an exporter: a failure, unless the user chose so for traces."""
    if any(plan.kind != "none" for plan in plans):
        return []
    if any(plan.signal == "traces" and plan.name for plan in plans):
        return [Check("info", "all", NO_EXPORT, effect="off")]
    detail = "no signal is exported: telemetry is recorded and discarded"
    return [Check("fail", "all", detail, f"Set {variable}=otlp", effect="blocks")]


def unknown_exporters(distro: EntryPoint | None) -> Check:
    """Return a warning that a third-party distro may choose its own exporters."""
    detail = f"{distro.name if distro else 'the distro'} may choose its own exporters; not tested"
    remedy = "Set OTEL_TRACES_EXPORTER=otlp explicitly"
    return Check("warn", "all", detail, remedy, effect="unknown")


def declarative_checks(environ: Mapping[str, str]) -> list[Check]:
    """Return checks of `OTEL_CONFIG_FILE`: its exporters replace those of the variables."""
    path = environ.get("OTEL_CONFIG_FILE")
    if not path:
        return []
    title = "OTEL_CONFIG_FILE"
    if not Path(path).is_file():
        detail = f"{path} is not a file: nothing is recorded"
        return [Check("fail", title, detail, f"Unset or correct {title}", effect="blocks")]
    if importlib.util.find_spec("opentelemetry.configuration") is None:
        detail = "opentelemetry-configuration is not installed: the SDK fails to start"
        remedy = "Run: pip install 'llamatelemetry[declarative]'"
        return [Check("fail", title, detail, remedy, effect="blocks")]
    try:
        load_config_file(path)
    except Exception as error:
        detail = f"{path} is invalid: {' '.join(str(error).split())}: nothing is recorded"
        return [Check("fail", title, detail, f"Correct {path}", effect="blocks")]
    detail = f"the exporters in {path} are used, and doctor does not test them; OTEL_*_EXPORTER "
    detail += "and OTEL_EXPORTER_OTLP_* are ignored"
    return [Check("warn", title, detail, effect="unknown")]


def provider_checks(environ: Mapping[str, str]) -> list[Check]:
    """Check the variables that replace the SDK's providers by those of an entry point.

    llamatelemetry then uses these providers, which have their own exporters or none at all.
    """
    checks: list[Check] = []
    for signal, variable in _PROVIDER_VARIABLES.items():
        name = environ.get(variable)
        if name in _EMPTY_PROVIDERS:
            detail = f"{variable}={name} creates a provider without an exporter"
            checks.append(Check("fail", signal, detail, f"Unset {variable}", effect="fails"))
        elif name:
            detail = f"{variable}={name} creates a provider of another package, not tested"
            checks.append(Check("warn", signal, detail, f"Unset {variable}", effect="unknown"))
    return checks


def hint_on(plan: SignalPlan) -> tuple[str, str]:
    """Return why an unreachable endpoint may be wrong, as (reason, remedy), or empty strings."""
    if plan.kind != "otlp":
        return "", ""
    other = HTTP if plan.protocol == GRPC else GRPC
    if _port(plan.endpoint) == _USUAL_PORT[other]:
        reason = f"port {_USUAL_PORT[other]} is usually {other}, not {plan.protocol}"
        remedy = f"Set OTEL_EXPORTER_OTLP_PROTOCOL={other}, or port {_USUAL_PORT[plan.protocol]}"
        return reason, remedy
    if any(f"/v1/{each}/v1/" in plan.endpoint for each in SIGNALS):
        reason = "the base endpoint is already the full URL of one signal"
        return reason, "Remove the path from OTEL_EXPORTER_OTLP_ENDPOINT"
    if plan.protocol == GRPC and "://" not in plan.endpoint and not plan.insecure:
        reason = "gRPC uses TLS for an endpoint without a scheme"
        return reason, f"Set OTEL_EXPORTER_OTLP_ENDPOINT=http://{mask_url(plan.endpoint)}"
    return "", ""


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None


def _unknown_exporter(plan: SignalPlan, known: Collection[str]) -> Check:
    variable = f"OTEL_{plan.signal.upper()}_EXPORTER"
    consequence = "the SDK fails to start, for all signals" if plan.is_sdk else "it is not used"
    detail = f"no exporter is named {plan.name}: {consequence}"
    near = nearest(plan.name, [*known, "otlp", "console", "none"]) or "otlp"
    remedy = f"Set {variable}={near}"
    return Check("fail", plan.signal, detail, remedy, effect="blocks" if plan.is_sdk else "fails")
