"""The instruments: those of the common vocabulary, and those that only llama.cpp has.

The semantic conventions define no names for these engine metrics, so llamatelemetry does. The
llama.cpp gauges `prompt_tokens_seconds` and `predicted_tokens_seconds` are left out: they are averages since
the last scrape by any client. Use the rate of a counter instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from llamatelemetry import __version__
from llamatelemetry.genai import internal_errors
from llamatelemetry.semconv import attributes as names
from llamatelemetry.server_metrics.vocabulary import FIGURES, PREFIX, UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.server_metrics.scrape import SlotUsage
    from llamatelemetry.server_metrics.scraper import ServerMetrics
    from llamatelemetry.server_metrics.vocabulary import Figure

SCOPE: Final = "llamatelemetry.server_metrics"
# The instrumentation scope is part of the telemetry: it keeps the earlier name of this package.
LLAMA_CPP_SCOPE: Final = "llamatelemetry.llama.server_metrics"
_LLAMA_CPP_PREFIX: Final = "llamatelemetry.llamacpp."
DRAFT_POSITION: Final = "llamatelemetry.draft.position"
SLOT_STATE: Final = "llamatelemetry.slot.state"
_POSITION: Final = re.compile(r'position="(\d{1,6})"')


@dataclass(frozen=True)
class Spec:
    """One instrument. `source` is the name in `/metrics` without `llamacpp:`, if it has one."""

    name: str
    unit: str
    description: str
    source: str = ""


COUNTERS: Final = (
    Spec(
        "prompt_tokens",
        "{token}",
        "Prompt tokens processed, without cached tokens.",
        "prompt_tokens_total",
    ),
    Spec(
        "cached_tokens",
        "{token}",
        "Prompt tokens taken from the cache.",
        "prompt_tokens_cached_total",
    ),
    Spec("prompt_time", "s", "Time spent processing prompts.", "prompt_seconds_total"),
    Spec(
        "predicted_tokens",
        "{token}",
        "Tokens generated, counted when a request ends.",
        "tokens_predicted_total",
    ),
    Spec("predicted_time", "s", "Time spent generating tokens.", "tokens_predicted_seconds_total"),
    Spec("decode_calls", "{call}", "Calls of llama_decode().", "n_decode_total"),
    Spec(
        "drafts",
        "{draft}",
        "Drafts of speculative decoding that were verified.",
        "spec_decode_num_drafts_total",
    ),
    Spec(
        "drafted_tokens",
        "{token}",
        "Tokens drafted by speculative decoding.",
        "spec_decode_num_draft_tokens_total",
    ),
    Spec(
        "accepted_tokens",
        "{token}",
        "Drafted tokens that the model accepted.",
        "spec_decode_num_accepted_tokens_total",
    ),
)
ACCEPTED_PER_POSITION: Final = Spec(
    "accepted_tokens_per_position",
    "{token}",
    "Drafted tokens that the model accepted, by their position in the draft.",
    "spec_decode_num_accepted_tokens_per_pos_total",
)
UP_DOWN_COUNTERS: Final = (
    Spec(
        "requests_processing", "{request}", "Requests that a slot processes.", "requests_processing"
    ),
    Spec("requests_deferred", "{request}", "Requests that wait for a slot.", "requests_deferred"),
)
GAUGES: Final = (
    Spec(
        "longest_sequence",
        "{token}",
        "Longest sequence of prompt and output tokens since the server's start.",
        "n_tokens_max",
    ),
    Spec(
        "busy_slots_per_decode",
        "{slot}",
        "Slots busy per call of llama_decode(), mean since the server's start.",
        "n_busy_slots_per_decode",
    ),
)
SLOTS: Final = Spec("slots", "{slot}", "Slots by state.")
KV_USAGE: Final = Spec(
    "kv_cache.estimated_usage",
    "{token}",
    "Estimated number of tokens in the KV cache of the slots.",
)
KV_UTILIZATION: Final = Spec(
    "kv_cache.estimated_utilization",
    "1",
    "Estimated fraction of the slots' context that is in use.",
)


@dataclass(frozen=True)
class ModelSample:
    """Current metrics of one model. A sleeping model has no gauges.

    Attributes:
        attributes: Attributes of the server.
        model: Name of the model, if the server reports it.
        totals: Counters by the server's names. Only llama.cpp has them.
        gauges: Gauges by the server's names. Only llama.cpp has them.
        slots: Slots of llama.cpp.
        figures: Values of the common vocabulary by figure, each with its detail or "".
    """

    attributes: Mapping[str, AttributeValue]
    model: str | None
    totals: Mapping[str, float]
    gauges: Mapping[str, float]
    slots: SlotUsage | None
    figures: Mapping[str, Sequence[tuple[float, str]]]

    @property
    def llama_cpp_attributes(self) -> dict[str, AttributeValue]:
        """Attributes of the metrics that only llama.cpp has."""
        return self._with_model(names.GEN_AI_RESPONSE_MODEL)

    @property
    def common_attributes(self) -> dict[str, AttributeValue]:
        """Attributes of the common metrics."""
        return self._with_model(names.GEN_AI_REQUEST_MODEL)

    def _with_model(self, name: str) -> dict[str, AttributeValue]:
        model = {} if self.model is None else {name: self.model}
        return {**self.attributes, **model}


class SampleSources:
    """The active sources. Instruments are created once per provider, and outlive the sources."""

    def __init__(self) -> None:
        self._active: WeakSet[ServerMetrics] = WeakSet()
        self._providers: WeakSet[MeterProvider] = WeakSet()

    def add(self, source: ServerMetrics, provider: MeterProvider) -> None:
        """Report the samples of a source through the instruments of a provider."""
        self._active.add(source)
        if provider not in self._providers:
            self._providers.add(provider)
            self._create_common(metrics.get_meter(SCOPE, __version__, provider))
            self._create_llama_cpp(metrics.get_meter(LLAMA_CPP_SCOPE, __version__, provider))

    def remove(self, source: ServerMetrics) -> None:
        """Stop reporting the samples of a source."""
        self._active.discard(source)

    def _create_common(self, meter: Meter) -> None:
        makers = {
            "counter": meter.create_observable_counter,
            "up-down counter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for figure in FIGURES:
            self._observe(makers[figure.kind], figure, PREFIX, partial(_common, figure))

        def is_up(source: ServerMetrics) -> Iterable[Observation]:
            return (Observation(int(up), each) for each, up in source.servers())

        self._observe(makers[UP.kind], UP, PREFIX, is_up)

    def _create_llama_cpp(self, meter: Meter) -> None:
        def observe(create: Callable[..., object], spec: Spec, read: _Read) -> None:
            def of_source(source: ServerMetrics) -> Iterable[Observation]:
                return (
                    Observation(value, {**sample.llama_cpp_attributes, **attributes})
                    for sample in source.model_samples()
                    for value, attributes in read(sample)
                )

            self._observe(create, spec, _LLAMA_CPP_PREFIX, of_source)

        for spec in COUNTERS:
            observe(meter.create_observable_counter, spec, partial(_total, spec.source))
        for spec in UP_DOWN_COUNTERS:
            make = meter.create_observable_up_down_counter
            observe(make, spec, partial(_gauge, spec.source))
        for spec in GAUGES:
            observe(meter.create_observable_gauge, spec, partial(_gauge, spec.source))
        per_position = partial(_accepted_per_position, ACCEPTED_PER_POSITION.source)
        observe(meter.create_observable_counter, ACCEPTED_PER_POSITION, per_position)
        observe(meter.create_observable_up_down_counter, SLOTS, _slots)
        observe(meter.create_observable_up_down_counter, KV_USAGE, _kv_usage)
        observe(meter.create_observable_gauge, KV_UTILIZATION, _kv_utilization)

    def _observe(
        self,
        create: Callable[..., object],
        spec: Spec | Figure,
        prefix: str,
        read: Callable[[ServerMetrics], Iterable[Observation]],
    ) -> None:
        def callback(_options: CallbackOptions) -> list[Observation]:
            try:
                return [each for source in list(self._active) for each in read(source)]
            except Exception as error:
                internal_errors.log_once("reporting a server's metrics", error)
                return []

        create(prefix + spec.name, [callback], spec.unit, spec.description)


_Values: TypeAlias = "Iterable[tuple[float, Mapping[str, AttributeValue]]]"
_Read: TypeAlias = "Callable[[ModelSample], _Values]"


def _common(figure: Figure, source: ServerMetrics) -> Iterable[Observation]:
    for sample in source.model_samples():
        for value, detail in sample.figures.get(figure.name, ()):
            more = {figure.detail: detail} if figure.detail and detail else {}
            exact = value if figure.unit in ("s", "1") else _exact(value)
            yield Observation(exact, {**sample.common_attributes, **more})


def _total(source: str, sample: ModelSample) -> _Values:
    value = sample.totals.get(source)
    return () if value is None else ((_exact(value), {}),)


def _gauge(source: str, sample: ModelSample) -> _Values:
    value = sample.gauges.get(source)
    return () if value is None else ((_exact(value), {}),)


def _accepted_per_position(source: str, sample: ModelSample) -> _Values:
    for name, value in sample.totals.items():
        position = _POSITION.search(name) if name.startswith(source) else None
        if position is not None:
            yield _exact(value), {DRAFT_POSITION: int(position[1])}


def _slots(sample: ModelSample) -> _Values:
    if sample.slots is not None:
        yield sample.slots.busy, {SLOT_STATE: "busy"}
        yield sample.slots.total - sample.slots.busy, {SLOT_STATE: "idle"}


def _kv_usage(sample: ModelSample) -> _Values:
    return () if sample.slots is None else ((sample.slots.tokens, {}),)


def _kv_utilization(sample: ModelSample) -> _Values:
    slots = sample.slots
    return () if slots is None or not slots.capacity else ((slots.tokens / slots.capacity, {}),)


def _exact(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


sources: Final = SampleSources()
