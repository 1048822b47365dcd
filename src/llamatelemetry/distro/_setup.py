"""The SDK of this process: made from options or from a file, attached to later, taken down."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.environment_variables import OTEL_EXPERIMENTAL_RESOURCE_DETECTORS
from opentelemetry.sdk.resources import Resource

from llamatelemetry import __version__, genai
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import guard
from llamatelemetry.otel.deadline import Deadline, run_side_by_side
from llamatelemetry.otel.export_watch import ExportWatch
from llamatelemetry.otel.forking import start_metrics_anew
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.redaction.options import REDACTION_OPTIONS, loosened
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor
from llamatelemetry.otel.span_processors import put_in_front, take_gate_out, take_out

from ._export_plan import given_by_us, plan_exports
from ._gpu import DETECTOR, GpuWatch
from ._processors import arrange, redacting
from ._redacting import RedactionTwins
from ._sampling import replace_sampler, sample_at_end, sampler_options
from ._sdk import environment, exporter_options, providers_made, remove_logging_handlers
from ._workers import follow_forks

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.otel.tail_sampling import TailSampler
    from llamatelemetry.server_metrics import ServerMetrics

_logger = logging.getLogger("llamatelemetry.distro")

_RESOURCE = {
    "service_name": "service.name",
    "service_version": "service.version",
    "environment": "deployment.environment.name",
}
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_EXPORT = (
    "otlp_endpoint",
    "otlp_protocol",
    "otlp_headers",
    "exporter",
    "export_path",
    "export_interval_ms",
    "enable_metrics",
)


class Setup:
    """The SDK providers that are ours, and what we added to those that are not."""

    def __init__(
        self, config: LlamaTelemetryConfig, made: Mapping[str, Any], gpus: GpuWatch
    ) -> None:
        self.config = config
        self.gpus = gpus
        self.watch = ExportWatch()
        self._made = dict(made)
        self._processors: list[SpanProcessor] = []
        self._server_metrics: ServerMetrics | None = None
        self._gate: TailSampler | None = None
        self._twins = RedactionTwins(self._made)
        for provider in made.values():
            self.watch.watch(provider)

    @property
    def is_alive(self) -> bool:
        """False when the application has shut one of our providers down by itself."""
        return all(SIGNALS[name].stable.sdk is made for name, made in self._made.items())

    def add(self, processors: Sequence[SpanProcessor], *, present: bool = False) -> None:
        """Puts those that are not there yet in front of all others.

        Args:
            processors: in the order in which they are to be called.
            present: they are there; only remember them.
        """
        new = [each for each in processors if not any(each is p for p in self._processors)]
        if "traces" not in self._made:
            # Nothing is taken out of an application's own spans that it did not ask for.
            new = [each for each in new if not isinstance(each, SecretsSpanProcessor)]
        self._processors += new
        if new and not present:
            put_in_front(self._tracer_provider, new)
        self._twins.add(new)

    def redact(self, wanted: LlamaTelemetryConfig, changed: set[str]) -> set[str]:
        """Redacts from now on also by the options `redact_*` of `wanted`, if they have changed.

        What is being redacted stays so: another thread may be relying on it.

        Returns:
            Those of the changed options that could be followed.
        """
        asked = changed & {*REDACTION_OPTIONS}
        followed = asked - loosened(self.config, wanted)
        if followed:
            kept = {name: getattr(self.config, name) for name in asked - followed}
            self.add(redacting(wanted.replace(**kept)))
        return followed

    @property
    def processors(self) -> tuple[SpanProcessor, ...]:
        """Those that were added, ours and the application's."""
        return tuple(self._processors)

    @property
    def service_name(self) -> str:
        """The `service.name` of the resource that metrics come from."""
        provider = self._made.get("metrics") or SIGNALS["metrics"].get_global()
        resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)
        name = resource.attributes.get("service.name") if resource is not None else None
        return str(name or self.config.service_name or "unknown_service")

    def read_servers(self) -> None:
        """Starts what reads the metrics of llama.cpp servers, if any are named."""
        if not self.config.llamacpp_metrics_url or not self.config.enable_metrics:
            return
        from llamatelemetry.server_metrics import ServerMetrics

        try:
            reading = ServerMetrics(
                self.config.llamacpp_metrics_url,
                self.service_name,
                is_delta=os.environ.get(_TEMPORALITY, "").strip().lower() == "delta",
            )
            reading.start()
            self._server_metrics = reading
        except Exception as error:
            guard.report("starting to read servers' metrics", error)

    def sample(self) -> None:
        """Lets a tail sampler decide what the exporters get, if one is asked for."""
        self._gate = sample_at_end(
            self.config, self._tracer_provider, self._processors, ours="traces" in self._made
        )

    def go_on_in_child(self) -> None:
        """After a fork, in the child: another process, which has recorded nothing yet."""
        self.watch.start_anew()
        resource = Resource(_process())
        for name, provider in self._made.items():
            if name == "metrics":
                start_metrics_anew(provider)
            provider._update_resource(resource)

    def send_the_rest(self, timeout_s: float = 5.0) -> None:
        """At the end of a process that runs no atexit handlers."""
        deadline = Deadline(timeout_s)
        genai.flush_pending(deadline.remaining_s)
        providers = {name: signal.get_global() for name, signal in SIGNALS.items()}
        steps = {
            f"flush-{name}": partial(provider.force_flush, deadline.remaining_ms)
            for name, provider in providers.items()
            if hasattr(provider, "force_flush")
        }
        run_side_by_side(steps, deadline)

    def stop(self, deadline: Deadline, *, at_once: bool) -> bool:
        """Takes our providers down, each with its threads. False when that was not done in time.

        Args:
            deadline: until when.
            at_once: whether exporters give up what they are retrying.
        """
        # First of all, so that nothing is recorded on what is going down.
        for name in self._made:
            SIGNALS[name].stable.detach()
        if at_once:
            self.watch.shutdown_exporters()
        steps: dict[str, Callable[[], object]] = {
            f"shutdown-{name}": made.shutdown for name, made in self._made.items()
        }
        if "metrics" in self._made:
            shutdown = self._made["metrics"].shutdown
            steps["shutdown-metrics"] = partial(shutdown, deadline.remaining_ms)
        if self._server_metrics is not None:
            stop = self._server_metrics.stop
            steps["stop-server-metrics"] = partial(stop, deadline.remaining_s)
        steps["stop-gpus"] = partial(self.gpus.stop, deadline.remaining_s)
        if "logs" in self._made:
            remove_logging_handlers(self._made["logs"])
        if "traces" not in self._made:
            if self._gate is not None:
                take_gate_out(self._tracer_provider, self._gate)
            take_out(self._tracer_provider, self._processors)
            steps |= {f"shutdown-{n}": each.shutdown for n, each in enumerate(self._processors)}
        self._twins.take_out()
        return run_side_by_side(steps, deadline)

    @property
    def _tracer_provider(self) -> Any:
        return self._made.get("traces") or SIGNALS["traces"].get_global()


def from_options(
    configure: Callable[..., None], config: LlamaTelemetryConfig, options: Mapping[str, Any]
) -> Setup:
    """Makes the SDK from our options and OpenTelemetry's variables.

    Args:
        configure: the SDK's own configuration.
        config: an effective one.
        options: further arguments of `configure`, which win.
    """
    foreign = _foreign_signals()
    plan = plan_exports(config, os.environ)
    for warning in plan.warnings:
        _logger.warning("%s", warning)
    _warn_of_unused(
        config,
        (*_RESOURCE, *_EXPORT) if foreign else (),
        f"the application has made its own provider for {' and '.join(sorted(foreign))}",
    )
    sampler, variables = sampler_options(config)
    gpus = GpuWatch(config)
    processors = arrange(config, gpus.processors)
    arguments: dict[str, Any] = {
        **exporter_options(plan, foreign),
        **sampler,
        # Not to a provider that is thrown away, which would shut them down.
        "span_processors": () if "traces" in foreign else processors,
        **options,
        "resource_attributes": {**_resource(config), **options.get("resource_attributes", {})},
    }
    variables |= _variables(config)
    with environment(variables), providers_made(declarative=False) as made:
        configure(**arguments)
    return _finished(Setup(config, made, gpus), processors, present="traces" in made)


def from_file(configure: Callable[[], None], config: LlamaTelemetryConfig) -> Setup:
    """Makes the SDK from a declarative file, in which our options have no place.

    Args:
        configure: applies the file.
        config: an effective one. What we can still add is added: the resource's attributes,
            and span processors in front of those of the file.
    """
    _warn_of_unused(config, _EXPORT, "OTEL_CONFIG_FILE is set")
    with providers_made(declarative=True) as made:
        configure()
    resource = Resource(
        {
            key: value
            for key, value in _resource(config).items()
            if not _option_of(key) or given_by_us(config, _option_of(key))
        }
    )
    if OTEL_EXPERIMENTAL_RESOURCE_DETECTORS not in os.environ:
        resource = _gpu_resource().merge(resource)
    for provider in made.values():
        provider._update_resource(resource)
    if "traces" in made:
        replace_sampler(config, made["traces"])
    gpus = GpuWatch(config)
    return _finished(Setup(config, made, gpus), arrange(config, gpus.processors), present=False)


def _finished(setup: Setup, processors: Sequence[SpanProcessor], *, present: bool) -> Setup:
    setup.add(processors, present=present)
    setup.read_servers()
    setup.sample()
    follow_forks(setup)
    setup.gpus.start(setup.service_name)
    # The last registered runs first: calls end while the SDK's own handlers have not run.
    atexit.unregister(_end_pending_calls)
    atexit.register(_end_pending_calls)
    return setup


def _end_pending_calls() -> None:
    genai.flush_pending(1.0)


def _foreign_signals() -> frozenset[str]:
    return frozenset(name for name, signal in SIGNALS.items() if signal.foreign is not None)


def _warn_of_unused(config: LlamaTelemetryConfig, names: Sequence[str], reason: str) -> None:
    unused = [name for name in names if given_by_us(config, name)]
    if unused:
        _logger.warning("Not used, because %s: %s", reason, ", ".join(unused))


def _process() -> dict[str, int]:
    return {"process.pid": os.getpid()}


def _resource(config: LlamaTelemetryConfig) -> dict[str, str | int]:
    given = {key: getattr(config, name) for name, key in _RESOURCE.items()}
    return {
        "telemetry.distro.name": "llamatelemetry",
        "telemetry.distro.version": __version__,
        **_process(),
        **{key: value for key, value in given.items() if value is not None},
    }


def _gpu_resource() -> Resource:
    from llamatelemetry.gpu.detector import GpuResourceDetector

    return GpuResourceDetector().detect()


def _option_of(key: str) -> str:
    """The option behind an attribute of the resource; empty for what no option says."""
    return next((name for name, attribute in _RESOURCE.items() if attribute == key), "")


def _variables(config: LlamaTelemetryConfig) -> dict[str, str]:
    # The plan names the exporters; the SDK would add those of the variables to them.
    variables = {f"OTEL_{name.upper()}_EXPORTER": "none" for name in SIGNALS}
    if OTEL_EXPERIMENTAL_RESOURCE_DETECTORS not in os.environ:
        variables[OTEL_EXPERIMENTAL_RESOURCE_DETECTORS] = DETECTOR
    if given_by_us(config, "export_interval_ms"):
        variables["OTEL_METRIC_EXPORT_INTERVAL"] = str(config.export_interval_ms)
    return variables
