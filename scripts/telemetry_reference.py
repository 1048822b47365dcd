#!/usr/bin/env python3
"""Write the tables in docs/reference/telemetry/ from `semconv/telemetry.toml` and the metric specifications.

    scripts/telemetry_reference.py            update the pages
    scripts/telemetry_reference.py --check    exit with 1 if a page is out of date

The text around the tables is written by hand. The example values are those of
telemetry_examples.json, which `scripts/record_telemetry_examples.py` records.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _page_tables import write_tables
from _telemetry_table import OWN, Attribute, Event, Group, Metric, MetricGroup, Span, read_table

PAGES = Path(__file__).parents[1] / "docs/reference/telemetry"
EXAMPLES = json.loads(Path(__file__).with_name("telemetry_examples.json").read_text("utf-8"))
STABILITY = {OWN: "own", "development": "development", "stable": "stable"}
NONE = "–"  # noqa: RUF001 - the sign of docs
PLACES = {"any": "every span", "resource": "resource", "details": "the event of a call"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. An empty cell has a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join((cell or NONE).replace('|', chr(92) + '|') for cell in row)} |"
        for row in lines
    )


def sections(parts: Iterable[tuple[str, str, str]]) -> str:
    """Return sections of title, note and table."""
    return "\n\n".join(
        "\n\n".join(filter(None, (f"## {title}", note, rows))) for title, note, rows in parts
    )


def spans() -> str:
    """Return the table of spans, and their attributes by name."""
    return sections((span.title, "", span_rows(span)) for span in read_table().spans)


def span_rows(span: Span) -> str:
    """Return the properties of a span."""
    here: dict[str, list[str]] = {}
    for each in read_table().attributes.values():
        if span.key in each.on:
            here.setdefault(each.group, []).append(each.name)
    listed = (
        f"[{group}](attributes.md#{anchor(group)}): {code(names)}" for group, names in here.items()
    )
    rows = [
        ("Name", span.name),
        ("Kind", ", ".join(span.kinds)),
        ("Scope", ", ".join(f"`{each}`" for each in span.scopes)),
        ("Recorded", span.when),
        ("Attributes", "<br>".join(listed)),
    ]
    return table(("Property", "Value"), rows)


def anchor(title: str) -> str:
    """Return the anchor of a heading."""
    return title.lower().replace(" ", "-").replace(",", "").replace(".", "")


def attributes() -> str:
    """Return one section for each group of attributes."""
    return sections((group.title, group_note(group), rows_of(group)) for group in groups())


def groups() -> Sequence[Group]:
    """Return the groups of attributes."""
    return read_table().groups


def group_note(group: Group) -> str:
    """Return the note about a group, and where its attributes are."""
    common = common_places(group)
    where = f"On: {places(common)}." if common else ""
    return " ".join(filter(None, (group.note, where)))


def common_places(group: Group) -> Sequence[str]:
    """Return the places of the first attribute that has those of most in the group."""
    keys = [tuple(each.on) for each in group.attributes]
    return max(dict.fromkeys(keys), key=keys.count)


def places(keys: Sequence[str]) -> str:
    """Return the spans and events of some keys as text."""
    titles = {span.key: span.title.lower() for span in read_table().spans}
    titles["server-start"] = "starts of a llama.cpp server"
    return ", ".join(PLACES.get(key) or titles[key] for key in keys)


def rows_of(group: Group) -> str:
    """Return the table of a group."""
    header = ("Attribute", "Type", "Description", "Recorded", "Stability", "Example")
    common = common_places(group)
    return table(header, [attribute_row(each, common) for each in group.attributes])


def attribute_row(each: Attribute, common: Sequence[str]) -> Sequence[str]:
    """Return the row of an attribute. It names its places if they are not those of the group."""
    when = each.when if each.on == list(common) else f"{each.when}. On: {places(each.on)}"
    kind = f"{each.type}, {each.unit}" if each.unit else each.type
    example = shown(EXAMPLES["attributes"], each.name)
    stability = STABILITY[each.stability]
    return f"`{each.name}`", kind, each.description, when, stability, example


def shown(examples: Mapping[str, Any], name: str) -> str:
    """Return an example value as code, or an empty text."""
    if name not in examples:
        return ""
    value = examples[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text.replace('`', '')}`"


def metrics() -> str:
    """Return one section for each group of metrics."""
    return sections(
        (group.title, metric_note(group), metric_rows(group))
        for group in read_table().metric_groups
    )


def metric_note(group: MetricGroup) -> str:
    """Return the note about a group of metrics, its scopes and its common attributes."""
    scopes = ", ".join(f"`{each}`" if "." in each or each == OWN else each for each in group.scopes)
    common = common_attributes(group)
    text = f"{group.note} Scope: {scopes}."
    return f"{text}\n\nAttributes of all: {code(common)}." if common else text


def common_attributes(group: MetricGroup) -> Sequence[str]:
    """Return the attributes that all metrics of a group have."""
    first, *others = (each.attributes for each in group.metrics)
    return [name for name in first if all(name in each for each in others)]


def metric_rows(group: MetricGroup) -> str:
    """Return the table of a group of metrics."""
    header = ("Metric", "Instrument", "Description", "Other attributes", "Recorded", "Example")
    common = common_attributes(group)
    return table(header, [metric_row(each, common) for each in group.metrics])


def metric_row(each: Metric, common: Sequence[str]) -> Sequence[str]:
    """Return the row of a metric."""
    others = [name for name in each.attributes if name not in common]
    return (
        f"`{each.name}`",
        f"{each.instrument}, {each.unit}",
        each.description,
        code(others),
        each.when,
        shown(EXAMPLES["metrics"], each.name),
    )


def buckets() -> str:
    """Return the table of bucket boundaries, with the histograms that have them."""
    by_boundaries: dict[tuple[float, ...], list[Metric]] = {}
    for each in read_table().metrics.values():
        if each.boundaries:
            by_boundaries.setdefault(tuple(each.boundaries), []).append(each)
    rows = [
        (code(each.name for each in found), ", ".join(f"{bound:.10g}" for bound in bounds))
        for bounds, found in by_boundaries.items()
    ]
    return table(("Histograms", "Boundaries"), rows)


def code(names: Iterable[str]) -> str:
    """Return names as code."""
    return ", ".join(f"`{name}`" for name in names)


def events() -> str:
    """Return one section for each event."""
    return sections((f"`{event.name}`", "", event_rows(event)) for event in read_table().events)


def event_rows(event: Event) -> str:
    """Return the properties of an event."""
    rows = (
        ("Recorded as", event.carrier),
        ("Recorded", event.when),
        ("Attributes", event.attributes),
        ("Stability", STABILITY[event.stability]),
    )
    return table(("Property", "Value"), rows)


TABLES = {
    "spans.md": {"spans": spans},
    "attributes.md": {"attributes": attributes},
    "metrics.md": {"metrics": metrics, "buckets": buckets},
    "events.md": {"events": events},
}


def main(arguments: list[str]) -> int:
    """Update or compare all pages. Return 1 if one is out of date."""
    script = "scripts/telemetry_reference.py"
    return max(
        write_tables(PAGES / page, script, tables, arguments) for page, tables in TABLES.items()
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
