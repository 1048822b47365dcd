"""The report in a real browser: drawing, keyboard, and safety of recorded data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatelemetry.local.report import Recording, render
from llamatelemetry.local.report.columns import columns, compact
from tests.local.example_records import EVIL, call, sample_recording, span, vllm
from tests.support import browser

pytestmark = browser.MARKS

HELPERS = """
  const press = (id, key) =>
    $(id).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const texts = (id) =>
    [...$(id).querySelectorAll(".row")].map((row) => row.innerText.replace(/\\s+/g, " "));
  %s
"""


def in_browser(tmp_path: Path, page: str, script: str) -> dict[str, Any]:
    return browser.run_in_page(tmp_path, page, HELPERS % script, height=1600)


def test_page_is_usable_by_keyboard_and_shows_prompts_as_text(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(sample_recording()),
        """
        said.traces = texts("list");
        $("list").focus();
        press("list", "ArrowDown"); press("list", "End");
        said.chosen = $("list").getAttribute("aria-activedescendant");
        said.spans = texts("waterfall");
        press("waterfall", "ArrowDown");
        said.details = $("details").innerText;
        press("waterfall", "End");
        said.failed = $("details").innerText;
        said.scripts = document.querySelectorAll("#details script, #details img, #list img").length;
        said.drawn = [...document.querySelectorAll(".chart")].map(
          (chart) => chart.querySelectorAll("path.series[d^=M]").length);
        $("filter").value = "rag"; $("filter").dispatchEvent(new Event("input"));
        said.filtered = $("shown").textContent;
        $("filter").value = "";
        $("only-errors").checked = true; $("only-errors").dispatchEvent(new Event("input"));
        said.errors = texts("list");
        """,
    )
    assert len(said["traces"]) == 2
    assert said["chosen"] == "list-1"
    assert [line.split(" ")[0] for line in said["spans"]] == [
        "invoke_workflow", "chat", "queue", "prefill", "decode", EVIL.split(" ", maxsplit=1)[0],
    ]  # fmt: skip
    assert EVIL in said["details"]
    assert "gen_ai.ttft_ms" in said["details"]
    assert said["failed"].count(EVIL) >= 3
    assert said["scripts"] == 0
    assert said["drawn"] == [1, 1, 1, 3]  # calls, load and power
    assert said["filtered"] == "1 of 2"
    assert len(said["errors"]) == 1


def test_charts_show_values_zoom_and_hide_series(tmp_path: Path) -> None:
    calls = [call(n, **{"gen_ai.ttft_ms": 10.0 if n < 3 else 50.0}) for n in range(4)]
    said = in_browser(
        tmp_path,
        render(Recording([*calls, *sample_recording().spans], sample_recording().points)),
        """
        const texts_of = (chart) => [...chart.querySelectorAll("text")].map((text) => text.textContent);
        const svg = $("chart-ttft").querySelector("svg");
        const bar = svg.querySelector("path.series").getBoundingClientRect();
        const box = svg.getBoundingClientRect();
        const first = [(bar.left + 2 - box.left) / box.width, 0.7];
        pointer(svg, "pointermove", first);
        said.tip = document.querySelector(".tip").innerText;
        pointer(svg, "pointerleave", first);
        said.left = document.querySelector(".tip").hidden;
        said.axis = texts_of($("chart-ttft"));
        pointer(svg, "pointerdown", [first[0] - 0.05, 0.5]);
        pointer(svg, "pointermove", [first[0] + 0.05, 0.5]);
        pointer(svg, "pointerup", [first[0] + 0.05, 0.5]);
        said.zoomed = texts_of($("chart-ttft"));
        charts();
        said.kept = texts_of($("chart-ttft"));
        pointer(svg, "dblclick", first);
        said.whole = texts_of($("chart-ttft"));
        const timeline = $("chart-timeline");
        const count = () => timeline.querySelectorAll("path.series").length;
        const [calls, ...others] = timeline.querySelectorAll(".legend button");
        said.legend = [calls, ...others].map((each) => each.innerText);
        calls.click();
        said.without = [count(), calls.getAttribute("aria-pressed")];
        charts();
        said.still = count();
        pointer(timeline.querySelectorAll(".legend button")[1], "dblclick", [0.5, 0.5]);
        said.alone = count();
        """,
    )
    assert said["tip"] == "10 to 11 ms: 3"
    assert said["left"]
    assert said["axis"] == said["whole"]
    assert said["zoomed"] == said["kept"]
    assert said["zoomed"] != said["whole"]
    assert said["legend"] == ["calls", "GPU 0 load", "GPU 0 power"]
    assert said["without"] == [2, "false"]
    assert said["still"] == 2
    assert said["alone"] == 1


def test_page_opens_with_100000_spans(tmp_path: Path) -> None:
    spans = []
    for trace in range(20_000):
        at = trace * 5
        spans.append(
            call(at, trace=trace, **{"gen_ai.response.id": f"chatcmpl-{at:x}", "server.port": 8080})
        )
        spans += [
            span(at + 1 + n, at, trace, name=name, attributes={"llamatelemetry.phase": name})
            for n, name in enumerate(("queue", "prefill", "decode", "http"))
        ]
    page = render(Recording(spans))
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
        """,
    )
    assert said == {
        "counts": "100000 spans in 20000 traces",
        "rows": said["rows"],
        "chosen": "list-19999",
        "spans": 5,
    }
    assert 10 < said["rows"] < 60


def test_page_counts_a_call_once_when_the_span_of_its_engine_came_first(tmp_path: Path) -> None:
    client, engine = call(1), vllm(9, parent=1)
    later = compact(columns([client, engine]))
    said = in_browser(
        tmp_path,
        render(Recording([engine])),
        f"""
        const tokens = () => [...traces.values()].map((whole) => whole.tokens);
        const calls = () => spans.filter((span) => span.role === 1 && span.call).map((span) => span.id);
        said.before = [tokens(), calls()];
        add({later});
        said.after = [tokens(), calls(), spans.length];
        """,
    )
    assert said["before"] == [[25], [engine.span_id]]
    assert said["after"] == [[15], [client.span_id], 2]


def test_page_opens_without_spans(tmp_path: Path) -> None:
    said = in_browser(tmp_path, render(Recording()), 'said.counts = $("counts").textContent;')
    assert said == {"counts": "0 spans in 0 traces"}
