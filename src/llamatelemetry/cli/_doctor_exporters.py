"""Where each signal would go: exporter, address, headers, and the mistakes often made there.

Pure reading of configuration and environment; `_doctor_reach` tries what is found here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from llamatelemetry.cli._doctor_check import Check, is_true, nearest, without_userinfo
from llamatelemetry.config import SIGNALS, LlamaTelemetryConfig

SECTION = "Exporter"

GRPC, HTTP = "grpc", "http/protobuf"
_FIXED_PROTOCOL = {"otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
_DEFAULT_ENDPOINT = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_USUAL_PORT = {GRPC: 4317, HTTP: 4318}
_FILE_NAMES = ("file", "llamatelemetry_file")


@dataclass(frozen=True)
class SignalPlan:
    """One exporter of one signal. `kind`: ``otlp``, ``console``, ``file``, ``none``, ``other``."""

    signal: str
    kind: str
    name: str = ""
    protocol: str = ""
    endpoint: str = ""
    """As the exporter gets it: for HTTP the full URL; empty when the signal goes nowhere."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    insecure: bool = False
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    path: str = ""

    @property
    def target(self) -> str:
        """What gRPC dials: the host and port of a URL, else the endpoint as it stands."""
        return urlsplit(self.endpoint).netloc or self.endpoint

    @property
    def shown(self) -> str:
        """Exporter and address in one phrase, fit to be printed."""
        if self.kind == "otlp":
            return f"{self.protocol} to {without_userinfo(self.endpoint) or 'nowhere'}"
        return f"{self.kind} ({self.path})" if self.kind == "file" else self.name or self.kind


def plan_signals(
    config: LlamaTelemetryConfig, environ: Mapping[str, str], *, ours: bool, default: str = "otlp"
) -> list[SignalPlan]:
    """Every exporter of every signal; `ours`: our distro is in charge, not another one.

    Another distro knows nothing of our variables, and of a base URL that is really the full
    URL of one signal it makes ``/v1/traces/v1/traces``. `default` is its exporter when no
    variable names one: ``otlp`` for opentelemetry-distro, ``none`` for the bare SDK.
    """
    plans: list[SignalPlan] = []
    for signal in SIGNALS:
        names = config.exporters()[signal] if ours else _sdk_names(signal, environ, default)
        if ours and signal == "metrics" and not config.enable_metrics:
            names = ()
        plans += [_plan(signal, name, config, environ, ours) for name in names]
        if not names:
            plans.append(SignalPlan(signal, "none"))
    return plans


def _sdk_names(signal: str, environ: Mapping[str, str], default: str) -> tuple[str, ...]:
    """The SDK's own reading of its variable."""
    text = environ.get(f"OTEL_{signal.upper()}_EXPORTER", default)
    names = [name.strip() for name in text.split(",")]
    return tuple(name for name in names if name and name.lower() != "none")


def _plan(
    signal: str, name: str, config: LlamaTelemetryConfig, environ: Mapping[str, str], ours: bool
) -> SignalPlan:
    if name == "otlp" or name in _FIXED_PROTOCOL:
        return _otlp_plan(signal, name, config, environ, ours)
    if name == "console":
        return SignalPlan(signal, "console", name)
    if name in _FILE_NAMES and (ours or name != "file"):
        return SignalPlan(signal, "file", name, path=config.export_path)
    return SignalPlan(signal, "other", name)


def _otlp_plan(
    signal: str, name: str, config: LlamaTelemetryConfig, environ: Mapping[str, str], ours: bool
) -> SignalPlan:
    own = _Variables(signal, environ)
    general = config.otlp_protocol if ours else environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or GRPC
    protocol = _FIXED_PROTOCOL.get(name) or own.get("PROTOCOL") or general
    base = config.otlp_endpoint if ours else environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = own.get("ENDPOINT") or _signal_address(signal, protocol, base, ours)
    if own.get("HEADERS") or not ours:
        text = own.get("HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
        headers = parse_env_headers(text, liberal=True)
    else:
        headers = dict(config.otlp_headers or {})
    return SignalPlan(
        signal,
        "otlp",
        name,
        protocol=protocol.strip(),
        endpoint=endpoint,
        headers=headers,
        insecure=_insecure(endpoint, own.either("INSECURE")),
        certificate=own.either("CERTIFICATE"),
        client_key=own.either("CLIENT_KEY"),
        client_certificate=own.either("CLIENT_CERTIFICATE"),
    )


@dataclass(frozen=True)
class _Variables:
    """The ``OTEL_EXPORTER_OTLP_*`` variables of one signal."""

    signal: str
    environ: Mapping[str, str]

    def get(self, name: str) -> str | None:
        return self.environ.get(f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{name}") or None

    def either(self, name: str) -> str | None:
        return self.get(name) or self.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or None


def _insecure(endpoint: str, asked: str | None) -> bool:
    """The gRPC exporter's rule: ``https`` is TLS, then the variable, then ``http`` is not."""
    scheme = urlsplit(endpoint).scheme
    if scheme == "https":
        return False
    return is_true(asked) if asked is not None else scheme == "http"


def _signal_address(signal: str, protocol: str, base: str | None, ours: bool) -> str:
    if not base:
        base = _DEFAULT_ENDPOINT.get(protocol.strip(), "")
    if protocol.strip() != HTTP:
        return base
    served = signal_of_path(base)
    if ours and served:
        return base if served == signal else ""
    return f"{base.removesuffix('/')}/v1/{signal}"


def signal_of_path(url: str) -> str:
    """``traces`` of ``http://host/v1/traces``: the signal whose full URL this is, or nothing."""
    path = urlsplit(url).path.rstrip("/")
    return next((signal for signal in SIGNALS if path.endswith(f"/v1/{signal}")), "")


def mistake_in(plan: SignalPlan, known: Collection[str]) -> Check | None:
    """What can be seen to fail without trying; `known`: installed exporters of this signal."""
    if plan.kind == "other" and plan.name not in known:
        return _unknown_exporter(plan, known)
    if plan.kind != "otlp":
        return None
    if plan.protocol not in (GRPC, HTTP):
        detail = f"protocol {plan.protocol} is not supported: the SDK refuses to start"
        return Check(SECTION, "fail", plan.signal, detail, f"OTEL_EXPORTER_OTLP_PROTOCOL={HTTP}")
    return _mistake_in_address(plan)


def _mistake_in_address(plan: SignalPlan) -> Check | None:
    signal, address, variable = plan.signal, plan.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT"
    if not address:
        detail = f"{variable} is the full URL of another signal: {signal} go nowhere"
        remedy = f"cut the path off {variable}, or set OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        return Check(SECTION, "warn", signal, detail, remedy)
    if set(address) & set("\"' \t"):
        detail = f"quotes or blanks are part of the address {plan.shown}"
        return Check(SECTION, "fail", signal, detail, f"take them out of {variable}")
    if plan.protocol == HTTP and "://" not in address:
        remedy = f"{variable}=http://{address.split('/')[0]}"
        return Check(SECTION, "fail", signal, f"the address {address} has no scheme", remedy)
    return None


def nothing_leaves(plans: Sequence[SignalPlan]) -> list[Check]:
    """The failure that no single signal shows: every one of them is exported nowhere."""
    if any(plan.kind != "none" for plan in plans):
        return []
    detail = "no signal is exported: telemetry is made and thrown away"
    return [Check(SECTION, "fail", "all", detail, "LLAMATELEMETRY_EXPORTER=otlp")]


def declarative_checks(environ: Mapping[str, str]) -> list[Check]:
    """With ``OTEL_CONFIG_FILE`` the exporters stand in that file, and no variable counts."""
    path = environ.get("OTEL_CONFIG_FILE")
    if not path:
        return []
    title = "OTEL_CONFIG_FILE"
    if not Path(path).is_file():
        return [Check(SECTION, "fail", title, f"{path} is not a file", f"unset or correct {title}")]
    if importlib.util.find_spec("opentelemetry.configuration") is None:
        detail = "opentelemetry-configuration is not installed: the SDK refuses to start"
        return [Check(SECTION, "fail", title, detail, "pip install 'llamatelemetry[declarative]'")]
    detail = f"exporters are those of {path}, which doctor does not try; OTEL_*_EXPORTER and "
    detail += "OTEL_EXPORTER_OTLP_* do not count"
    return [Check(SECTION, "warn", title, detail)]


def hint_on(plan: SignalPlan) -> tuple[str, str]:
    """Why an address that cannot be reached may be the wrong one: (reason, remedy), or empty."""
    if plan.kind != "otlp":
        return "", ""
    other = HTTP if plan.protocol == GRPC else GRPC
    if _port(plan.endpoint) == _USUAL_PORT[other]:
        reason = f"{plan.protocol} on port {_USUAL_PORT[other]}, which is usually {other}"
        return reason, f"OTEL_EXPORTER_OTLP_PROTOCOL={other}, or port {_USUAL_PORT[plan.protocol]}"
    if any(f"/v1/{each}/v1/" in plan.endpoint for each in SIGNALS):
        reason = "the base address already was the full URL of a signal"
        return reason, "cut the path off OTEL_EXPORTER_OTLP_ENDPOINT"
    if plan.protocol == GRPC and "://" not in plan.endpoint and not plan.insecure:
        reason = "without a scheme gRPC uses TLS"
        return reason, f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{plan.endpoint}"
    return "", ""


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None


def _unknown_exporter(plan: SignalPlan, known: Collection[str]) -> Check:
    variable = f"OTEL_{plan.signal.upper()}_EXPORTER"
    detail = f"no exporter is called {plan.name}: the SDK refuses to start, for every signal"
    near = nearest(plan.name, [*known, "otlp", "console", "none"]) or "otlp"
    return Check(SECTION, "fail", plan.signal, detail, f"{variable}={near}")
