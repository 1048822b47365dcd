"""Metrics of GPUs and inference servers as time series, for the time axis of the calls."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamatelemetry.local.records import MetricPoint


class _Shown(NamedTuple):
    """Where a metric is drawn: title of the panel, name of the series, and factor of its values."""

    panel: str
    name: str
    factor: float = 1


# The metrics of llama.cpp have names of their own beside the common ones, which are preferred.
_METRICS: Final[Mapping[str, _Shown]] = {
    "llamatelemetry.llamacpp.requests_processing": _Shown("Requests", "running"),
    "llamatelemetry.llamacpp.requests_deferred": _Shown("Requests", "waiting"),
    "llamatelemetry.llamacpp.kv_cache.estimated_utilization": _Shown("KV cache (%)", "used", 100),
    "llamatelemetry.server.requests_running": _Shown("Requests", "running"),
    "llamatelemetry.server.requests_waiting": _Shown("Requests", "waiting"),
    "llamatelemetry.server.kv_cache_usage": _Shown("KV cache (%)", "used", 100),
    "hw.gpu.utilization": _Shown("GPU (%)", "utilization", 100),
    "hw.power": _Shown("GPU (W)", "power"),
}
_PANELS: Final = tuple(dict.fromkeys(shown.panel for shown in _METRICS.values()))


def series(points: Iterable[MetricPoint]) -> list[dict[str, Any]]:
    """Return one series for each metric and device, in the order of the panels.

    A series has `panel`, `name`, `device`, `times` in microseconds since the epoch, and `values`.
    """
    found: dict[tuple[str, str, str], dict[str, list[tuple[int, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for point in points:
        shown = _METRICS.get(point.name)
        if shown is not None and point.value is not None and math.isfinite(point.value):
            key = (shown.panel, shown.name, _device(point.attributes))
            value = round(float(point.value) * shown.factor, 4)
            found[key][point.name].append((point.time_ns // 1000, value))
    return [
        {
            "panel": panel,
            "name": name,
            "device": device,
            "times": [time for time, _ in values],
            "values": [value for _, value in values],
        }
        for (panel, name, device), by_metric in sorted(found.items(), key=_order)
        # The last of the names in the table that has values.
        for values in [sorted(next(by_metric[each] for each in _PREFERRED if each in by_metric))]
    ]


_PREFERRED: Final = tuple(reversed(_METRICS))


def _order(item: tuple[tuple[str, str, str], Any]) -> tuple[int, str, str]:
    panel, name, device = item[0]
    return _PANELS.index(panel), device, name


def _device(attributes: Mapping[str, Any]) -> str:
    """Return the name of a GPU, or the address of a server and the model that the series is of."""
    if names.SERVER_ADDRESS not in attributes:
        return str(attributes.get("hw.name", attributes.get("hw.id", "GPU")))
    address = f"{attributes[names.SERVER_ADDRESS]}:{attributes.get(names.SERVER_PORT, '')}"
    model = attributes.get(names.GEN_AI_REQUEST_MODEL)
    return f"{address} {model}" if model else address
