"""Read the common figures of an engine from its Prometheus text, with the engine's table.

Whatever is not certain is left out: values that are negative or not finite, series that occur
twice, metrics of another type than expected, and fractions above 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry.genai import model_name
from llamatelemetry.genai.wire.prometheus import (
    Sample,
    parse_names,
    parse_samples,
    parse_types,
)
from llamatelemetry.server_metrics.engines import ENGINES, Labels
from llamatelemetry.server_metrics.vocabulary import (
    DURATIONS,
    FIGURES,
    UPPER_BOUND,
    key_of,
    split_key,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from llamatelemetry.server_metrics.engines import Engine

# Above this a float cannot hold every integer, and a server that reports more is in error.
LARGEST_COUNT: Final = 2**53
_PROCESS_START: Final = "process_start_time_seconds"
_MODEL_LABELS: Final = ("model_name", "model")
_KINDS: Final = {figure.name: figure.kind for figure in FIGURES}
# More than any server has. The attributes of metrics must not grow without a limit.
_MAX_DETAILS: Final = 200
_MAX_LABEL_CHARS: Final = 256


class Group(NamedTuple):
    """The series of one model and replica of an engine, which restart together."""

    provider: str
    model: str | None
    replica: str = ""


@dataclass
class Values:
    """Values of one group, by figure and detail (see `key_of`)."""

    counters: dict[str, float] = field(default_factory=dict[str, float])
    gauges: dict[str, float] = field(default_factory=dict[str, float])


class _Reading(NamedTuple):
    """The figure that the samples of one name are added to.

    Attributes:
        figure: Name of the figure.
        where: Labels that a sample must have.
        scale: Factor of the value.
        detail: Label whose value is the detail of the figure.
        bound_scale: Factor of the upper bound of a bucket.
        requires: Another sample name that the sum needs.
    """

    figure: str
    where: Labels = ()
    scale: float = 1.0
    detail: str | None = None
    bound_scale: float = 1.0
    requires: str | None = None


def find_engine(text: str) -> Engine | None:
    """Return the engine that the names of metrics prove, also of those without samples yet."""
    names = parse_names(text) | parse_types(text).keys()
    return next((engine for engine in ENGINES if any(map(engine.is_proved_by, names))), None)


def read_process_start(text: str) -> str | None:
    """Return the start time of the server's process, if the server reports it."""
    starts = {sample.value for sample in parse_samples(text, {_PROCESS_START})}
    return str(starts.pop()) if len(starts) == 1 else None


def read_figures(engine: Engine, text: str) -> dict[Group, Values]:
    """Return the figures of each model and replica."""
    readings = _readings(engine, parse_names(text), parse_types(text))
    sums: dict[Group, dict[str, float]] = defaultdict(dict)
    seen: dict[Group, set[str]] = defaultdict(set)
    for sample in _distinct(parse_samples(text, readings), engine.ranks):
        replica = sample.labels.get(engine.replica, "")
        group = Group(engine.provider, _model_of(sample.labels), replica)
        seen[group].add(sample.name)
        for reading in readings[sample.name]:
            key = _key(reading, sample.labels)
            if key is not None:
                _add(sums[group], key, sample.value * reading.scale)
    required = [r for each in readings.values() for r in each if r.requires is not None]
    for group, found in sums.items():
        for reading in required:
            if reading.requires not in seen[group]:
                found.pop(reading.figure, None)
    groups = {group: _known(found) for group, found in sums.items()}
    return {group: values for group, values in groups.items() if values.counters or values.gauges}


def _readings(
    engine: Engine, exposed: Collection[str], types: Mapping[str, str]
) -> dict[str, list[_Reading]]:
    """Return what the samples of each name are read as."""
    readings: dict[str, list[_Reading]] = defaultdict(list)
    for figure, source in engine.sources.items():
        is_histogram = source.kind == "histogram"
        suffix = "_sum" if is_histogram else ""
        candidates = (engine.prefix + name for name in source.names)
        name = next((each for each in candidates if each + suffix in exposed), None)
        if name is None or not _has_type(name, source.kind, types):
            continue
        plus = engine.prefix + source.plus if source.plus else None
        first = _Reading(figure, source.where, source.scale, source.detail, requires=plus)
        readings[name + suffix].append(first)
        if plus is not None and _has_type(plus, source.kind, types):
            readings[plus].append(first._replace(requires=name))
        count = engine.prefix + source.count if source.count else f"{name}_count"
        if figure in DURATIONS and (source.count or is_histogram):
            readings[count].append(_Reading(f"{figure}.count", source.where))
        if figure in DURATIONS and is_histogram:
            bucket = _Reading(f"{figure}.bucket", source.where, 1.0, UPPER_BOUND, source.scale)
            readings[f"{name}_bucket"].append(bucket)
    return readings


def _has_type(name: str, kind: str, types: Mapping[str, str]) -> bool:
    # OpenMetrics declares counters without the suffix of their samples.
    declared = types.get(name) or types.get(name.removesuffix("_total"))
    return declared in (None, kind, "untyped", "unknown")


def _distinct(samples: Iterable[Sample], ranks: tuple[str, ...]) -> Iterable[Sample]:
    """Return the samples of the lowest rank. The value of an uncertain one is not a number."""
    found: dict[tuple[object, ...], tuple[tuple[int, ...], Sample]] = {}
    for sample in samples:
        rank = tuple(_rank(sample.labels.pop(label, "")) for label in ranks)
        if any(len(value) > _MAX_LABEL_CHARS for value in sample.labels.values()):
            continue
        identity = (sample.name, *sorted(sample.labels.items()))
        known = found.get(identity)
        is_valid = 0 <= sample.value <= LARGEST_COUNT and (known is None or known[0] != rank)
        if known is None or rank <= known[0]:
            found[identity] = rank, sample if is_valid else sample._replace(value=math.nan)
    return [sample for _, sample in found.values()]


def _rank(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _model_of(labels: Mapping[str, str]) -> str | None:
    return next((model_name(labels[name]) for name in _MODEL_LABELS if name in labels), None)


def _key(reading: _Reading, labels: Mapping[str, str]) -> str | None:
    """Return the key that a sample is added to; `None` if it is not part of the figure."""
    if any(labels.get(label, "") != value for label, value in reading.where):
        return None
    if reading.detail is None:
        return reading.figure
    detail = labels.get(reading.detail, "")
    if reading.detail != UPPER_BOUND:
        return key_of(reading.figure, detail)
    bound = _bound(detail)
    if bound is None or reading.bound_scale == 1:
        return None if bound is None else key_of(reading.figure, detail)
    scaled = bound * reading.bound_scale
    return key_of(reading.figure, "+Inf" if math.isinf(scaled) else f"{scaled:.12g}")


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _add(sums: dict[str, float], key: str, value: float) -> None:
    # Fractions of several series have no sum, and no mean without their weights.
    is_fraction = _KINDS[split_key(key)[0]] == "gauge"
    sums[key] = math.nan if is_fraction and key in sums else sums.get(key, 0.0) + value


def _known(sums: Mapping[str, float]) -> Values:
    """Return the values of one group without the figures that are not certain."""
    details = Counter(split_key(key)[0] for key in sums)
    uncertain = {name for name, number in details.items() if number > _MAX_DETAILS}
    for key, value in sums.items():
        name = split_key(key)[0]
        if math.isnan(value) or (_KINDS[name] == "gauge" and value > 1):
            uncertain.add(name)
    uncertain |= {f"{name}.bucket" for name in DURATIONS if not _is_cumulative(name, sums)}
    for name in DURATIONS & {name.removesuffix(".count") for name in uncertain}:
        # A mean needs both the sum and the count.
        uncertain |= {name, f"{name}.count", f"{name}.bucket"}
    values = Values()
    for key, value in sums.items():
        name = split_key(key)[0]
        if name not in uncertain:
            target = values.counters if _KINDS[name] == "counter" else values.gauges
            target[key] = value
    return values


def _is_cumulative(duration: str, sums: Mapping[str, float]) -> bool:
    """Return whether the buckets of a histogram do not decrease, and end with its count."""
    buckets = {
        float(bound): value
        for key, value in sums.items()
        if (bound := key.removeprefix(f"{duration}.bucket=")) != key
    }
    values = [buckets[bound] for bound in sorted(buckets)]
    return values == sorted(values) and (
        not buckets or buckets.get(math.inf) == sums.get(f"{duration}.count")
    )
