"""Render the dashboards with the data of a Prometheus server, one picture each.

`scripts/render_dashboards.py FOLDER --url http://localhost:9090 --start UNIX --end UNIX`. It draws
what Grafana would query, not Grafana itself. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

DASHBOARDS = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"
COLUMNS = 3
UNITS = {
    "s": "s",
    "percentunit": "%",
    "reqps": "requests/s",
    "short": "",
    "watt": "W",
    "joule": "J",
    "watth": "Wh",
    "bytes": "B",
    "Bps": "B/s",
    "celsius": "°C",
    "hertz": "Hz",
}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels of all rows."""
    for panel in board["panels"]:
        yield from (each for each in [panel, *panel.get("panels", ())] if each["type"] != "row")


class Renderer:
    """Queries a Prometheus server over a time range, and draws panels."""

    def __init__(self, url: str, start_s: float, end_s: float, rate_interval: str) -> None:
        self._url = url
        self._start_s = start_s
        self._end_s = end_s
        self._rate_interval = rate_interval

    def render(self, path: Path, folder: Path) -> Path:
        """Draw one dashboard. Return the path of its picture."""
        board = json.loads(path.read_text())
        shown = [(panel, lines) for panel in panels(board) if (lines := self._lines(panel))]
        rows = math.ceil(len(shown) / COLUMNS)
        figure, axes = pyplot.subplots(
            rows, COLUMNS, figsize=(15, 2.9 * rows), squeeze=False, layout="constrained"
        )
        figure.suptitle(board["title"])
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for axis, (panel, lines) in zip(axes.flat, shown, strict=False):
            self._draw(axis, panel, lines)
        target = folder / f"{path.stem}.png"
        figure.savefig(target, dpi=65)
        pyplot.close(figure)
        return target

    def _lines(self, panel: dict[str, Any]) -> list[tuple[str, list[float], list[float]]]:
        found = []
        for target in panel["targets"]:
            for series in self._query(target["expr"]):
                points = [(float(t) - self._start_s, float(v)) for t, v in series["values"]]
                points = [point for point in points if not math.isnan(point[1])]
                if points:
                    times, values = map(list, zip(*points, strict=True))
                    found.append((legend(target["legendFormat"], series["metric"]), times, values))
        return found

    def _query(self, expr: str) -> list[dict[str, Any]]:
        text = re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", self._rate_interval))
        step = max(1.0, (self._end_s - self._start_s) / 120)
        query = {"query": text, "start": self._start_s, "end": self._end_s, "step": step}
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - the user's
            return json.load(response)["data"]["result"]

    def _draw(self, axis: Any, panel: dict[str, Any], lines: list[Any]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        unit = UNITS[defaults["unit"]]
        for label, times, values in lines[:8]:
            shown = [100 * value for value in values] if unit == "%" else values
            axis.plot(times, shown, label=label, linewidth=1.2)
        axis.set_title(f"{panel['title']}{f' ({unit})' if unit else ''}", fontsize=10)
        axis.set_xlim(0, self._end_s - self._start_s)
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, loc="upper left")


def legend(template: str, labels: dict[str, str]) -> str:
    """Return the legend of a series, as Grafana fills its template."""
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)
    return text.strip() or "value"


def main() -> int:
    """Render every dashboard into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://localhost:9090")
    parser.add_argument("--start", type=float, required=True, help="Unix time")
    parser.add_argument("--end", type=float, required=True, help="Unix time")
    parser.add_argument("--rate-interval", default="1m")
    options = parser.parse_args()
    renderer = Renderer(options.url, options.start, options.end, options.rate_interval)
    options.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(DASHBOARDS.glob("*.json")):
        print(renderer.render(path, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
