"""The report in a real browser: charts, sizes and narrow screens."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.local.records import MetricPoint
from llamatelemetry.local.report import Recording, render
from tests.local.many_records import many_spans
from tests.local.report_in_browser import in_browser, live_page
from tests.support import browser
from tests.support.example_records import (
    START_NS,
    call,
    gpu,
    sample_recording,
    span,
)

pytestmark = browser.MARKS


def test_charts_show_values_zoom_hide_series_and_open_calls(tmp_path: Path) -> None:
    calls = [call(n, **{"gen_ai.ttft_ms": 10.0 if n < 13 else 50.0}) for n in range(10, 14)]
    said = in_browser(
        tmp_path,
        render(Recording([*calls, *sample_recording().spans], sample_recording().points)),
        """
        const svg = $("chart-ttft").querySelector("svg");
        const box = svg.getBoundingClientRect();
        const dots = svg.querySelectorAll("path.series")[1].getBoundingClientRect();
        const first = [(dots.left - box.left) / box.width, (dots.bottom - box.top) / box.height];
        pointer(svg, "pointermove", first);
        said.tip = document.querySelector(".tip").innerText;
        pointer(svg, "pointerdown", first); pointer(svg, "pointerup", first);
        said.opened = location.hash;
        pointer(svg, "pointerleave", first);
        said.left = document.querySelector(".tip").hidden;
        said.axis = axis("chart-ttft");
        pointer(svg, "pointerdown", [0.3, 0.5]);
        pointer(svg, "pointermove", [0.6, 0.5]);
        pointer(svg, "pointerup", [0.6, 0.5]);
        said.zoomed = axis("chart-ttft");
        charts();
        said.kept = axis("chart-ttft");
        pointer(svg, "dblclick", first);
        said.whole = axis("chart-ttft");
        const timeline = $("chart-timeline");
        const count = () => timeline.querySelectorAll("path.series").length;
        const buttons = () => [...timeline.querySelectorAll(".legend button")];
        said.legend = buttons().map((each) => each.innerText);
        const before = count();
        buttons()[0].click();
        said.without = [before - count(), buttons()[0].getAttribute("aria-pressed")];
        charts();
        said.still = before - count();
        """,
    )
    assert re.match(r"10 ms: chat m\n[123] of 6 calls took at most this", said["tip"])
    assert said["opened"].startswith(f"#{1:032x}/")
    assert said["left"]
    assert said["axis"] == said["whole"]
    assert said["zoomed"] == said["kept"] != said["whole"]
    assert said["legend"][-2:] == ["GPU utilization, GPU 0", "GPU power, GPU 0"]
    assert said["without"] == [1, "false"]
    assert said["still"] == 1


def test_calls_at_once_are_drawn_in_lanes_of_their_own(tmp_path: Path) -> None:
    def at(number: int, begin_ms: int, end_ms: int) -> Any:
        begin, end = (START_NS + each * 1_000_000 for each in (begin_ms, end_ms))
        return replace(call(number, trace=number), start_ns=begin, end_ns=end)

    said = in_browser(
        tmp_path,
        live_page(Recording([at(1, 0, 100), at(2, 50, 150), at(3, 100, 200), at(4, 60, 70)])),
        """
        said.lanes = lanes(spans.sort((a, b) => a.start - b.start))[0];
        const [part] = partSeries(spans, said.lanes);
        part.open(part.of.findIndex((span) => span.id.endsWith("3")));
        said.opened = location.hash.slice(-1);
        """,
    )
    assert said == {"lanes": [0, 1, 2, 0], "opened": "3"}


def test_time_of_calls_is_shown_as_parts(tmp_path: Path) -> None:
    more = {
        "gen_ai.request.stream": True, "gen_ai.ttft_ms": 20.0,
        "gen_ai.prefill_ms": 10.0, "gen_ai.decode_ms": 25.0,
        "llamatelemetry.queue_duration": 0.005,
    }  # fmt: skip
    said = in_browser(
        tmp_path,
        live_page(Recording([call(1, **more)])),
        """
        said.all = $("all-time").getAttribute("aria-label");
        said.one = texts("calls")[0];
        said.figures = $("figures").innerText.replace(/\\n+/g, " ");
        said.evidence = $("details").querySelector(".evidence").innerText.replace(/\\s+/g, " ");
        """,
    )
    parts = [
        "queue 10 %", "before the first token, outside the engine 10 %", "prefill 20 %",
        "decode 50 %", "after the first token, outside the engine 10 %",
    ]  # fmt: skip
    assert set(parts) == {each.strip() for each in _split(said["all"])}
    assert said["one"].endswith("decode: 25 ms, 50 % of the call")
    assert "1 Calls 0 Errors 10 Input tokens 5 Output tokens" in said["figures"]
    assert "decode 25 ms 50 %" in said["evidence"]


def _split(label: str) -> list[str]:
    return [f"{each}%".lstrip(", ") for each in label.split("%") if each]


def test_metrics_of_servers_share_the_time_axis(tmp_path: Path) -> None:
    def point(name: str, value: float, port: int = 8080) -> MetricPoint:
        server = {"server.address": "127.0.0.1", "server.port": port}
        return MetricPoint(
            name, "1", "gauge", False, False, server, 0, START_NS + 10_000_000, value=value
        )

    points = [
        point("llamatelemetry.llamacpp.requests_processing", 9),
        point("llamatelemetry.server.requests_running", 2),
        point("llamatelemetry.server.requests_waiting", 1),
        point("llamatelemetry.server.kv_cache_usage", 0.25),
        point("llamatelemetry.server.kv_cache_usage", 0.5, port=8081),
        gpu("hw.power", 0, 70.0),
    ]
    said = in_browser(
        tmp_path,
        render(Recording([call(1)], points)),
        """
        said.values = [...metrics.values()].map(({ panel, name, values }) => [panel, name, values[0]]);
        said.legend = textsOf($("chart-timeline"), ".legend button").slice(-5);
        said.titles = axis("chart-timeline").filter((text) => /[(A-Z]/.test(text));
        """,
    )
    assert said["values"] == [
        ["Requests", "running", 2],  # instead of llama.cpp's own name
        ["Requests", "waiting", 1],
        ["KV cache (%)", "used", 25],
        ["KV cache (%)", "used", 50],
        ["GPU (W)", "power", 70],
    ]
    assert said["legend"] == [
        *("Requests running", "Requests waiting"),
        *("KV cache used, 127.0.0.1:8080", "KV cache used, 127.0.0.1:8081", "GPU power, GPU 0"),
    ]
    assert said["titles"] == ["Calls", "Requests", "KV cache (%)", "GPU (W)"]


FITS = """
  const width = document.documentElement.clientWidth;
  said.wide = [...document.querySelectorAll("body *")].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.width && !each.closest("svg, .tip, .rows") && (box.right > width + 1 || box.left < -1);
  }).map((each) => `${each.tagName}.${each.className}#${each.id}`);
  said.scrolls = document.documentElement.scrollWidth > width;
  const meets = (one, other, low, high) => one[low] < other[high] - 1 && other[low] < one[high] - 1;
  const overlap = (some) => some.some((one, at) => some.slice(at + 1).some((other) => {
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    return a.width && b.width && meets(a, b, "left", "right") && meets(a, b, "top", "bottom");
  }));
  const boxes = [...document.querySelectorAll(".row, .figures, .parts, .tools, tr")];
  said.overlaps = boxes.filter((box) => overlap([...box.children])).length;
  const names = [...document.querySelectorAll("#calls .name, #list .name, #waterfall .label")];
  said.cut = names.filter((each) => each.scrollWidth > each.clientWidth + 1).length;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_page_fits_into_400_pixels_without_cut_or_overlapping_text(
    tmp_path: Path, count: int, dark: bool
) -> None:
    agent = [span(1, name="invoke_workflow customer_support"), call(2, 1)] if count else []
    said = in_browser(
        tmp_path,
        render(Recording([*many_spans(count), *agent])),
        FITS
        + """
        said.dark = matchMedia("(prefers-color-scheme: dark)").matches;
        said.page = getComputedStyle(document.body).backgroundColor;
        """,
        frame_width=400,
        dark=dark,
    )
    assert said == {
        "wide": [],
        "scrolls": False,
        "overlaps": 0,
        "cut": 0,
        "dark": dark,
        "page": "rgb(14, 18, 24)" if dark else "rgb(255, 255, 255)",
    }


def test_small_run_stays_below_400_kb() -> None:
    assert len(render(Recording(many_spans(30))).encode()) < 150_000
    assert len(render(Recording(many_spans(2000))).encode()) < 400_000


@pytest.mark.parametrize("count", [5_000, 100_000])
def test_page_opens_with_many_spans(tmp_path: Path, count: int) -> None:
    page = render(Recording(many_spans(count)))
    assert len(page.encode()) < 20_000_000
    said = in_browser(
        tmp_path,
        page,
        """
        said.counts = $("counts").textContent;
        said.rows = texts("list").length;
        press("list", "End");
        said.chosen = $("list").getAttribute("aria-activedescendant");
        said.spans = texts("waterfall").length;
        said.drawn = $("chart-timeline").querySelectorAll("path.series").length;
        said.why = texts("calls")[0];
        said.note = $("timeline-note").textContent;
        const before = axis("chart-timeline");
        const svg = $("chart-timeline").querySelector("svg");
        pointer(svg, "pointerdown", [0.5, 0.3]);
        pointer(svg, "pointermove", [0.51, 0.3]);
        pointer(svg, "pointerup", [0.51, 0.3]);
        said.zoomed = [axis("chart-timeline").join() !== before.join(), $("timeline-note").textContent];
        """,
    )
    traces = count // 5
    assert said["counts"] == f"{count:,} spans in {traces:,} traces"
    assert 5 < said["rows"] < 60
    assert said["chosen"] == f"list-{traces - 1}"
    assert said["spans"] == 5
    assert said["drawn"] > 5
    assert "ms decode of the output" in said["why"]
    assert said["note"].startswith("The height is the number of calls at once.")
    assert said["zoomed"][0]
    if count == 5_000:
        assert said["zoomed"][1].startswith("Each bar is a call")
