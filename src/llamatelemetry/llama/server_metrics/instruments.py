"""The metrics: names, units, and where in a server's reply each comes from.

The conventions have no names for what an engine counts, so these are ours. The gauges
`prompt_tokens_seconds` and `predicted_tokens_seconds` are left out: they are averages since the
last time that anybody asked. The rate of a counter is what they are meant to be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from llamatelemetry import __version__
from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.util.types import AttributeValue

    from .reader import SlotUse

SCOPE: Final = "llamatelemetry.llama.server_metrics"
_PREFIX: Final = "llamatelemetry.llamacpp."
DRAFT_POSITION: Final = "llamatelemetry.draft.position"
SLOT_STATE: Final = "llamatelemetry.slot.state"
_POSITION: Final = re.compile(r'position="(\d+)"')


@dataclass(frozen=True)
class Spec:
    """One instrument. `source` is the name in `/metrics` without `llamacpp:`, or a label of ours."""

    name: str
    unit: str
    description: str
    source: str = ""


COUNTERS: Final = (
    Spec(
        "prompt_tokens",
        "{token}",
        "Prompt tokens processed, cached ones left out.",
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
        "requests_processing", "{request}", "Requests that a slot works on.", "requests_processing"
    ),
    Spec("requests_deferred", "{request}", "Requests that wait for a slot.", "requests_deferred"),
)
GAUGES: Final = (
    Spec(
        "longest_sequence",
        "{token}",
        "Longest prompt and answer together, since the server's start.",
        "n_tokens_max",
    ),
    Spec(
        "busy_slots_per_decode",
        "{slot}",
        "Slots busy per call of llama_decode(), mean since the server's start.",
        "n_busy_slots_per_decode",
    ),
)
SLOTS: Final = Spec("slots", "{slot}", "Slots, by what they do.")
KV_USAGE: Final = Spec(
    "kv_cache.estimated_usage",
    "{token}",
    "Tokens that the slots hold in the KV cache. An estimate.",
)
KV_UTILIZATION: Final = Spec(
    "kv_cache.estimated_utilization",
    "1",
    "Share of the slots' context that is in use. An estimate.",
)


@dataclass(frozen=True)
class Figures:
    """What is known of one model of one server. Gauges are None when they are not fresh."""

    attributes: Mapping[str, AttributeValue]
    totals: Mapping[str, float]
    gauges: Mapping[str, float] | None = None
    slots: SlotUse | None = None


class FigureSource(Protocol):
    """Something that has figures to report."""

    def figures(self) -> Iterable[Figures]:
        """What is known now. Called while metrics are collected: it must not wait."""
        ...


class Sources:
    """Who is asked for figures. The instruments are made once, and outlive each of them."""

    def __init__(self) -> None:
        self._active: WeakSet[FigureSource] = WeakSet()
        self._providers: WeakSet[MeterProvider] = WeakSet()

    def add(self, source: FigureSource, provider: MeterProvider) -> None:
        """Report what this one has, through instruments of this provider."""
        self._active.add(source)
        if provider not in self._providers:
            self._providers.add(provider)
            self._create(metrics.get_meter(SCOPE, __version__, provider))

    def remove(self, source: FigureSource) -> None:
        """Report nothing of it any more."""
        self._active.discard(source)

    def _create(self, meter: Meter) -> None:
        for spec in COUNTERS:
            self._observe(meter.create_observable_counter, spec, partial(_total, spec.source))
        for spec in UP_DOWN_COUNTERS:
            make = meter.create_observable_up_down_counter
            self._observe(make, spec, partial(_gauge, spec.source))
        for spec in GAUGES:
            self._observe(meter.create_observable_gauge, spec, partial(_gauge, spec.source))
        per_position = partial(_accepted_per_position, ACCEPTED_PER_POSITION.source)
        self._observe(meter.create_observable_counter, ACCEPTED_PER_POSITION, per_position)
        self._observe(meter.create_observable_up_down_counter, SLOTS, _slots)
        self._observe(meter.create_observable_up_down_counter, KV_USAGE, _kv_usage)
        self._observe(meter.create_observable_gauge, KV_UTILIZATION, _kv_utilization)

    def _observe(self, create: Callable[..., object], spec: Spec, read: _Read) -> None:
        def callback(_options: CallbackOptions) -> list[Observation]:
            try:
                return [
                    Observation(value, {**figures.attributes, **attributes})
                    for source in list(self._active)
                    for figures in source.figures()
                    for value, attributes in read(figures)
                ]
            except Exception as error:
                internal_errors.log_once("reporting a server's metrics", error)
                return []

        create(_PREFIX + spec.name, [callback], spec.unit, spec.description)


_Points: TypeAlias = "Iterable[tuple[float, Mapping[str, AttributeValue]]]"
_Read: TypeAlias = "Callable[[Figures], _Points]"


def _total(source: str, figures: Figures) -> _Points:
    value = figures.totals.get(source)
    return () if value is None else ((_exact(value), {}),)


def _gauge(source: str, figures: Figures) -> _Points:
    value = None if figures.gauges is None else figures.gauges.get(source)
    return () if value is None else ((_exact(value), {}),)


def _accepted_per_position(source: str, figures: Figures) -> _Points:
    for name, value in figures.totals.items():
        position = _POSITION.search(name) if name.startswith(source) else None
        if position is not None:
            yield _exact(value), {DRAFT_POSITION: int(position[1])}


def _slots(figures: Figures) -> _Points:
    if figures.slots is not None:
        yield figures.slots.busy, {SLOT_STATE: "busy"}
        yield figures.slots.total - figures.slots.busy, {SLOT_STATE: "idle"}


def _kv_usage(figures: Figures) -> _Points:
    return () if figures.slots is None else ((figures.slots.tokens, {}),)


def _kv_utilization(figures: Figures) -> _Points:
    slots = figures.slots
    return () if slots is None or not slots.capacity else ((slots.tokens / slots.capacity, {}),)


def _exact(value: float) -> float:
    return int(value) if value.is_integer() else value


sources: Final = Sources()
