"""Everything that llamatelemetry emits: `semconv/telemetry.toml` and the metric specifications."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.semconv import attributes as stable_attributes

from llamatelemetry.semconv import gpu, metrics
from llamatelemetry.semconv.metrics import CounterSpec, GaugeSpec, HistogramSpec
from llamatelemetry.server_metrics import instruments
from llamatelemetry.server_metrics.vocabulary import FIGURES, PREFIX, UP

TABLE = Path(gpu.__file__).with_name("telemetry.toml")
LLAMA_CPP_PREFIX = "llamatelemetry.llamacpp."
OWN = "llamatelemetry"


class Span(NamedTuple):
    """A kind of span. `key` is the name that rows of attributes use."""

    key: str
    title: str
    name: str
    kinds: Sequence[str]
    scopes: Sequence[str]
    when: str


class Event(NamedTuple):
    """An event. `carrier` is the log record, or the span that it is on."""

    key: str
    name: str
    carrier: str
    stability: str
    when: str
    attributes: str


class Attribute(NamedTuple):
    """An attribute. `on` has the keys of spans and events, `any` for every span, or `resource`."""

    name: str
    type: str
    unit: str
    description: str
    when: str
    on: Sequence[str]
    group: str
    stability: str


class Group(NamedTuple):
    """A group of attributes, as a section of the page."""

    title: str
    note: str
    attributes: Sequence[Attribute]


class Metric(NamedTuple):
    """A metric with its instrument, and the names of its attributes."""

    name: str
    instrument: str
    unit: str
    description: str
    boundaries: Sequence[float]
    attributes: Sequence[str]
    when: str
    stability: str


class MetricGroup(NamedTuple):
    """A group of metrics, as a section of the page."""

    title: str
    note: str
    scopes: Sequence[str]
    metrics: Sequence[Metric]


class Table(NamedTuple):
    """All rows."""

    spans: Sequence[Span]
    events: Sequence[Event]
    groups: Sequence[Group]
    metric_groups: Sequence[MetricGroup]

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The attributes by name."""
        return {each.name: each for group in self.groups for each in group.attributes}

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name."""
        return {each.name: each for group in self.metric_groups for each in group.metrics}


@functools.cache
def read_table() -> Table:
    """Return the table.

    Raises:
        KeyError: A metric of the table has no specification.
    """
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    own = frozenset(table["own_names"])
    specs = {spec.name: spec for spec in metric_specs()}
    return Table(
        spans=[Span(key, **fields) for key, fields in table["spans"].items()],
        events=[Event(key, **fields) for key, fields in table["events"].items()],
        groups=[_group(fields, own) for fields in table["group"]],
        metric_groups=[_metric_group(fields, specs) for fields in table["metrics"]],
    )


def _group(fields: Mapping[str, Any], own: frozenset[str]) -> Group:
    title = fields["title"]
    rows = [
        Attribute(
            *row[:5], row[5] if len(row) > 5 else fields["on"], title, _stability(row[0], own)
        )
        for row in fields["attributes"]
    ]
    return Group(title, fields.get("note", ""), rows)


def _stability(name: str, own: frozenset[str]) -> str:
    if name.startswith(f"{OWN}.") or name in own:
        return OWN
    return "stable" if name in _stable_names() else "development"


@functools.cache
def _stable_names() -> frozenset[str]:
    """Return the stable attribute names of OpenTelemetry's conventions."""
    modules = pkgutil.iter_modules(stable_attributes.__path__, f"{stable_attributes.__name__}.")
    found = {"http.response.header.<name>"}
    for module in modules:
        constants = vars(importlib.import_module(module.name)).values()
        found |= {each for each in constants if isinstance(each, str)}
    return frozenset(found)


class Spec(NamedTuple):
    """Specification of one metric."""

    name: str
    instrument: str
    unit: str
    description: str
    boundaries: Sequence[float] = ()


def metric_specs() -> Iterator[Spec]:
    """Yield the specifications of all metrics in the code."""
    kinds = {HistogramSpec: "histogram", CounterSpec: "counter", GaugeSpec: "gauge"}
    for each in (*vars(metrics).values(), *vars(gpu).values()):
        if isinstance(each, gpu.ObservedSpec):
            kind = each.kind.replace("up_down_counter", "up-down counter")
            yield Spec(each.name, kind, each.unit, each.description)
        elif isinstance(each, (HistogramSpec, CounterSpec, GaugeSpec)):
            boundaries = each.boundaries if isinstance(each, HistogramSpec) else ()
            yield Spec(each.name, kinds[type(each)], each.unit, each.description, boundaries)
    for figure in (*FIGURES, UP):
        yield Spec(PREFIX + figure.name, figure.kind, figure.unit, figure.description)
    one_of_llama_cpp = (
        ("counter", (*instruments.COUNTERS, instruments.ACCEPTED_PER_POSITION)),
        (
            "up-down counter",
            (*instruments.UP_DOWN_COUNTERS, instruments.SLOTS, instruments.KV_USAGE),
        ),
        ("gauge", (*instruments.GAUGES, instruments.KV_UTILIZATION)),
    )
    for kind, specs in one_of_llama_cpp:
        for spec in specs:
            yield Spec(LLAMA_CPP_PREFIX + spec.name, kind, spec.unit, spec.description)


def _metric_group(fields: Mapping[str, Any], specs: Mapping[str, Spec]) -> MetricGroup:
    prefix, more, when = fields.get("prefix"), fields.get("more", {}), fields.get("when", {})
    names = [name for name in specs if name.startswith(prefix)] if prefix else fields["names"]
    if unused := (more.keys() | when.keys()) - set(names):
        raise KeyError(f"{fields['title']}: unknown metrics {', '.join(sorted(unused))}")
    found = [
        Metric(
            *specs[name],
            attributes=[*fields["attributes"], *more.get(name, ())],
            when=when.get(name) or fields["default_when"],
            stability=OWN if name.startswith(f"{OWN}.") else "development",
        )
        for name in names
    ]
    return MetricGroup(fields["title"], fields["note"], fields["scopes"], found)
