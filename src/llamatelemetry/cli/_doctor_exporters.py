"""Where each signal would go: exporter, address, headers, and the mistakes often made there.

Pure reading of configuration and environment; `_doctor_reach` tries what is found here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from llamatelemetry.cli._doctor_check import Check, is_true, nearest, without_userinfo
from llamatelemetry.config import SIGNALS, LlamaTelemetryConfig

SECTION = "Exporter"

GRPC, HTTP = "grpc", "http/protobuf"
_PROTOCOL_OF = {"otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
_DEFAULT_ENDPOINT = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_USUAL_PORT = {GRPC: 4317, HTTP: 4318}


@dataclass(frozen=True)
class SignalPlan:
    """One exporter of one signal. `kind`: ``otlp``, ``console``, ``file``, ``none``, ``other``."""

    signal: str
    kind: str
    name: str = ""
    protocol: str = ""
    endpoint: str = ""
    """As the exporter gets it: for HTTP the full URL."""
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
            return f"{self.protocol} to {without_userinfo(self.endpoint)}"
        return f"{self.kind} ({self.path})" if self.kind == "file" else self.name or self.kind


def our_plans(
    config: LlamaTelemetryConfig, environ: Mapping[str, str]
) -> tuple[list[SignalPlan], list[Check]]:
    """What our configurator would set up, by its own plan, and what it would warn about."""
    # Inside: a plugin alone has neither our distro nor the SDK that it needs.
    from llamatelemetry.distro import plan_exports

    export = plan_exports(config, environ)
    plans: list[SignalPlan] = []
    for signal in SIGNALS:
        named = export.signals[signal].exporters
        plans += [_plan(signal, name, environ, arguments) for name, arguments in named.items()]
        if not named:
            plans.append(SignalPlan(signal, "none"))
    return plans, [Check(SECTION, "warn", "all", warning) for warning in export.warnings]


def sdk_plans(environ: Mapping[str, str]) -> list[SignalPlan]:
    """What the SDK sets up by itself. It knows nothing of our variables.

    Of a base URL that is really the full URL of one signal it makes ``/v1/traces/v1/traces``.
    """
    plans: list[SignalPlan] = []
    for signal in SIGNALS:
        names = [
            name.strip() for name in environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")
        ]
        named = [name for name in names if name and name.lower() != "none"]
        plans += [_plan(signal, name, environ, {}) for name in named]
        if not named:
            plans.append(SignalPlan(signal, "none"))
    return plans


def _plan(
    signal: str, name: str, environ: Mapping[str, str], arguments: Mapping[str, Any]
) -> SignalPlan:
    """One exporter by the name of its entry point; `arguments` win over the environment."""
    own = _Variables(signal, environ)
    if name == "otlp" or name in _PROTOCOL_OF:
        protocol = _PROTOCOL_OF.get(name) or (own.either("PROTOCOL") or GRPC).strip()
        return _otlp_plan(own, name, protocol, arguments)
    if name == "console":
        return SignalPlan(signal, "console", name)
    if name == "llamatelemetry_file":
        return SignalPlan(signal, "file", name, path=str(arguments.get("path") or "."))
    return SignalPlan(signal, "other", name)


def _otlp_plan(
    own: _Variables, name: str, protocol: str, arguments: Mapping[str, Any]
) -> SignalPlan:
    endpoint = str(arguments.get("endpoint") or own.get("ENDPOINT") or own.address(protocol))
    headers: Mapping[str, str] | None = arguments.get("headers")
    if headers is None:
        headers = parse_env_headers(own.either("HEADERS") or "", liberal=True)
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

    def address(self, protocol: str) -> str:
        """The general endpoint as the SDK's exporter reads it."""
        base = self.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULT_ENDPOINT.get(
            protocol, ""
        )
        return base if protocol == GRPC else f"{base.removesuffix('/')}/v1/{self.signal}"


def _insecure(endpoint: str, asked: str | None) -> bool:
    """The gRPC exporter's rule: ``https`` is TLS, then the variable, then ``http`` is not."""
    scheme = urlsplit(endpoint).scheme
    if scheme == "https":
        return False
    return is_true(asked) if asked is not None else scheme == "http"


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
    if set(address) & set("\"' \t"):
        detail = f"quotes or blanks are part of the address {plan.shown}"
        return Check(SECTION, "fail", signal, detail, f"take them out of {variable}")
    if plan.protocol == HTTP and "://" not in address:
        remedy = f"{variable}=http://{address.split('/')[0]}"
        return Check(SECTION, "fail", signal, f"the address {address} has no scheme", remedy)
    return None


def nothing_leaves(plans: Sequence[SignalPlan], variable: str) -> list[Check]:
    """The failure that no single signal shows: every one of them is exported nowhere."""
    if any(plan.kind != "none" for plan in plans):
        return []
    detail = "no signal is exported: telemetry is made and thrown away"
    return [Check(SECTION, "fail", "all", detail, f"{variable}=otlp")]


def unforeseeable(distro: EntryPoint | None) -> Check:
    """A distro that is not known here may choose exporters where no variable names one."""
    detail = f"{distro.name if distro else 'the distro'} may choose exporters of its own, not tried"
    return Check(SECTION, "warn", "all", detail, "OTEL_TRACES_EXPORTER=otlp leaves no doubt")


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
