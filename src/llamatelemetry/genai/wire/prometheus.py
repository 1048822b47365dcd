"""Parser of the Prometheus text format that inference servers expose at `/metrics`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_NAME: Final = re.compile(r"[a-zA-Z_:][\w:]*", re.ASCII)
_NAMES: Final = re.compile(r"^[a-zA-Z_:][\w:]*", re.ASCII | re.MULTILINE)
_LABEL: Final = re.compile(r'[ \t,]*([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', re.ASCII)
_LABELS_END: Final = re.compile(r"[ \t,]*\}")
_TYPE: Final = re.compile(r"#[ \t]+TYPE[ \t]+(\S+)[ \t]+(\S+)")
_ESCAPE: Final = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One sample: a value of a metric with these labels."""

    name: str
    labels: dict[str, str]
    value: float


def parse_metrics(text: str) -> dict[str, float]:
    """Return the samples by name, without the prefix `llamacpp:`, and with their labels.

    Invalid lines are ignored.
    """
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        labeled, brace, values = line.rpartition("}")
        name, values = (labeled + brace, values) if brace else (*line.split(" ", 1), "")[:2]
        try:
            # A timestamp may follow the value.
            samples[name.removeprefix("llamacpp:")] = float(values.split()[0])
        except (ValueError, IndexError):
            continue
    return samples


def parse_names(text: str) -> set[str]:
    """Return the names of all samples, such as `vllm:prompt_tokens_total`."""
    return set(_NAMES.findall(text))


def parse_types(text: str) -> dict[str, str]:
    """Return the declared type of each metric: `counter`, `gauge`, `histogram` or another one."""
    lines = (line for line in text.split("\n") if line.startswith("#"))
    return {found[1]: found[2] for line in lines if (found := _TYPE.match(line))}


def parse_samples(text: str, names: Collection[str]) -> Iterator[Sample]:
    """Yield the samples with one of these names. Invalid lines are ignored.

    Args:
        text: Response of `/metrics`. A last line without a line feed is incomplete and is ignored.
        names: Names of the wanted samples.
    """
    # Not `splitlines()`: label values may contain its other separators.
    for line in text.split("\n")[:-1]:
        found = _NAME.match(line)
        if found is None or found[0] not in names:
            continue
        labels, end = _parse_labels(line, found.end())
        # A timestamp or an exemplar may follow the value.
        values = line[end:].split(None, 1) if labels is not None else ()
        if labels is None or not values or "_" in values[0]:
            continue
        try:
            yield Sample(found[0], labels, float(values[0]))
        except ValueError:
            continue


def _parse_labels(line: str, start: int) -> tuple[dict[str, str] | None, int]:
    """Return the labels at this position and their end; `None` if they are invalid."""
    if not line.startswith("{", start):
        return {}, start
    labels: dict[str, str] = {}
    end = start + 1
    while found := _LABEL.match(line, end):
        name, value = found.groups()
        if name in labels:
            return None, end
        labels[name] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
        end = found.end()
    closing = _LABELS_END.match(line, end)
    return (None, end) if closing is None else (labels, closing.end())


def _unescape(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
