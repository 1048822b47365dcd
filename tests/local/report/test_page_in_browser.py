"""The report in a real browser: drawing, keyboard, addresses, and safety of recorded data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.local.records import Event, Link, MetricPoint, Run
from llamatelemetry.local.report import Recording, render
from llamatelemetry.local.report.columns import columns, compact
from tests.local.example_records import (
    EVIL,
    START_NS,
    call,
    gpu,
    phase,
    sample_recording,
    span,
    vllm,
)
from tests.local.many_records import many_spans
from tests.support import browser

pytestmark = browser.MARKS

HELPERS = """
  const press = (id, key) =>
    $(id).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const texts = (id) =>
    [...$(id).querySelectorAll(".row")].map((row) => row.innerText.replace(/\\s+/g, " "));
  const axis = (id) => [...$(id).querySelectorAll("text")].map((text) => text.textContent);
  const shown = (id) => $(id).offsetParent !== null;
  %s
"""


def in_browser(tmp_path: Path, page: str, script: str, **how: Any) -> dict[str, Any]:
    return browser.run_in_page(tmp_path, page, HELPERS % script, **{"height": 1600, **how})


def test_page_is_usable_by_keyboard_and_shows_prompts_as_text(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(sample_recording()),
        """
        press("list", "/");
        said.slash = document.activeElement.id;
        press("filter", "Enter");
        said.afterFilter = document.activeElement.id;
        said.traces = texts("list");
        press("list", "End");
        said.chosen = $("list").getAttribute("aria-activedescendant");
        press("list", "Enter");
        said.opened = document.activeElement.id;
        said.spans = texts("waterfall");
        said.first = $("details").querySelector(".lead b").textContent;
        said.message = $("details").querySelector(".message.user pre").textContent;
        press("waterfall", "End");
        said.failed = $("details").innerText;
        said.address = location.hash;
        press("waterfall", "Escape");
        said.back = document.activeElement.id;
        said.scripts = document.querySelectorAll("main script, main img").length;
        $("filter").value = "rag"; $("filter").dispatchEvent(new Event("input"));
        said.filtered = $("shown").textContent;
        $("filter").value = "";
        $("only-errors").checked = true; $("only-errors").dispatchEvent(new Event("input"));
        said.errors = texts("list");
        press("calls", "End"); press("calls", "Enter");
        said.fromCalls = [document.activeElement.id, location.hash];
        """,
    )
    assert said["slash"] == "filter"
    assert said["afterFilter"] == "list"
    assert len(said["traces"]) == 2
    assert said["chosen"] == "list-1"
    assert said["opened"] == "waterfall"
    assert [line.split(" ")[0] for line in said["spans"]] == [
        "invoke_workflow", "chat", "queue", "prefill", "decode", EVIL.split(" ", maxsplit=1)[0],
    ]  # fmt: skip
    assert said["first"] == "chat m"
    assert said["message"] == EVIL
    assert said["failed"].count(EVIL) >= 3
    assert said["address"] == f"#{1:032x}/{6:016x}"
    assert said["back"] == "list"
    assert said["scripts"] == 0
    assert said["filtered"] == "1 of 2"
    assert len(said["errors"]) == 1
    assert said["fromCalls"] == ["waterfall", f"#{2:032x}/{7:016x}"]


def test_address_opens_the_span_that_it_names(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(sample_recording()),
        """
        said.span = $("details").querySelector(".lead b").textContent;
        said.chosen = $("list").getAttribute("aria-activedescendant");
        """,
        address=f"#{1:032x}/{4:016x}",
    )
    assert said == {"span": "prefill", "chosen": "list-1"}


def _message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


def test_conversation_comes_first_with_tool_calls_and_folded_long_text(tmp_path: Path) -> None:
    long = "A long instruction. " * 500
    asked = [
        _message("user", {"type": "text", "content": "What is the weather in Paris?"}),
        _message(
            "assistant",
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Paris"}},
        ),
        _message(
            "tool", {"type": "tool_call_response", "id": "c1", "response": '{"sky": "clear"}'}
        ),
    ]
    answer = [
        {**_message("assistant", {"type": "text", "content": "Clear."}), "finish_reason": "stop"}
    ]
    one = call(
        1,
        **{
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": long}]),
            "gen_ai.input.messages": json.dumps(asked),
            "gen_ai.output.messages": json.dumps(answer),
            "gen_ai.tool.definitions": json.dumps([{"type": "function", "name": "weather"}]),
        },
    )
    said = in_browser(
        tmp_path,
        render(Recording([one])),
        """
        const details = $("details");
        said.headings = [...details.querySelectorAll("h3")].map((each) => each.textContent);
        said.roles = [...details.querySelectorAll(".message > b")].map((each) => each.textContent);
        said.tools = [...details.querySelectorAll(".inner > b, .inner > summary")].map((each) => each.textContent);
        said.data = [...details.querySelectorAll(".message.tool dl *")].map((each) => each.textContent);
        const folded = details.querySelector(".fold");
        said.height = folded.clientHeight;
        details.querySelector("button.more").click();
        said.unfolded = details.querySelector(".message.system pre").clientHeight;
        said.before = details.querySelector("dl:not(.message dl)").innerText.includes("gen_ai.input.messages");
        """,
    )
    assert said["headings"][0] == "Conversation"
    assert said["headings"][-1] == "Attributes"
    assert said["roles"] == [
        *("system", "user", "assistant", "tool"),
        "assistant · answer · finish reason: stop",
    ]
    assert said["tools"] == [
        *("1 tool offered: weather", "Tool call: weather", "Tool result: weather"),
    ]
    assert said["data"][:2] == ["sky", "clear"]
    assert said["height"] < 250 < said["unfolded"]
    assert not said["before"]


def test_attributes_can_be_searched_and_links_followed(tmp_path: Path) -> None:
    linked = [
        Link(f"{2:032x}", f"{7:016x}", {"why": "batch"}),
        Link("f" * 32, "e" * 16, {}),
    ]
    said = in_browser(
        tmp_path,
        render(
            Recording([replace(call(1, alpha="one", beta="two"), links=linked), call(7, trace=2)])
        ),
        """
        show(traces.get(%r), byId.get(%r));
        const search = $("details").querySelector("input[type=search]");
        search.value = "two"; search.dispatchEvent(new Event("input"));
        said.found = [...search.parentElement.nextElementSibling.querySelectorAll("dt")].map((each) => each.textContent);
        said.resource = $("details").querySelector("details").textContent.includes("service.name");
        said.other = $("details").innerText.includes("not in this recording");
        $("details").querySelector("p > a").click();
        await settled();
        said.followed = [location.hash, $("list").getAttribute("aria-activedescendant")];
        """
        % (f"{1:032x}", f"{1:032x}" + f"{1:016x}"),
    )
    assert said["found"] == ["beta"]
    assert said["resource"]
    assert said["other"]
    assert said["followed"] == [f"#{2:032x}/{7:016x}", "list-0"]


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
        render(Recording([at(1, 0, 100), at(2, 50, 150), at(3, 100, 200), at(4, 60, 70)])),
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
        "gen_ai.request.stream": True, "gen_ai.ttft_ms": 20.0, "gen_ai.prefill_ms": 10.0, "gen_ai.decode_ms": 25.0,
        "llamatelemetry.queue_duration": 0.005,
    }  # fmt: skip
    said = in_browser(
        tmp_path,
        render(Recording([call(1, **more)])),
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
        said.legend = [...$("chart-timeline").querySelectorAll(".legend button")].map((each) => each.innerText).slice(-5);
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


def test_markup_in_every_field_is_shown_as_text(tmp_path: Path) -> None:
    evil = {EVIL: EVIL, "gen_ai.operation.name": "chat"}
    messages = [_message(EVIL, {"type": EVIL, "content": EVIL}), {"role": EVIL, "content": EVIL}]
    hostile = {
        **evil, "gen_ai.request.model": EVIL, "error.type": EVIL, "gen_ai.provider.name": EVIL,
        "gen_ai.input.messages": messages, "gen_ai.output.messages": EVIL,
        "gen_ai.response.finish_reasons": [EVIL], "gen_ai.tool.definitions": [{"name": EVIL}],
        "server.address": EVIL,
    }  # fmt: skip
    one = span(
        1, name=EVIL, kind=3, status=2, status_message=EVIL, scope=EVIL, attributes=hostile,
        resource={EVIL: EVIL, "service.name": EVIL}, events=[Event(EVIL, START_NS, {EVIL: EVIL})],
        links=[Link(EVIL, EVIL, {EVIL: EVIL}), Link(f"{1:032x}", f"{1:016x}", {})],
    )  # fmt: skip
    point = MetricPoint(
        "hw.power", "W", "gauge", False, False, {"hw.name": EVIL}, 0, START_NS, value=1.0
    )
    page = render(
        Recording([one], [point], sources=[EVIL], runs=[Run([EVIL], START_NS, START_NS, 0, {})])
    )
    assert EVIL not in page
    said = in_browser(
        tmp_path,
        page,
        """
        said.markup = [...document.querySelectorAll("script, img")].length;
        const text = document.body.textContent;
        said.shown = ["h1", "#calls", "#summary", "#list", "#waterfall", "#details", ".legend", ".note"].filter(
          (each) => [...document.querySelectorAll(each)].some((box) => box.textContent.includes("<script>alert")));
        said.count = $("details").textContent.split("<script>alert").length - 1;
        """,
    )
    assert said["markup"] == 3  # the data, the page's own script and the test's
    assert said["shown"] == [
        *("h1", "#calls", "#summary", "#list", "#waterfall", "#details", ".legend", ".note"),
    ]
    assert said["count"] > 20


FITS = """
  const width = document.documentElement.clientWidth;
  said.wide = [...document.querySelectorAll("body *")].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.width && !each.closest("svg, .tip, .rows") && (box.right > width + 1 || box.left < -1);
  }).map((each) => `${each.tagName}.${each.className}#${each.id}`);
  said.scrolls = document.documentElement.scrollWidth > width;
  const overlap = (some) => some.some((one, at) => some.slice(at + 1).some((other) => {
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    return a.width && b.width && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  }));
  said.overlaps = [...document.querySelectorAll(".row, .figures, .parts, .tools, tr")].filter((box) => overlap([...box.children])).length;
  said.cutNames = [...document.querySelectorAll("#waterfall .label, #list .name")].filter((each) => each.scrollWidth > each.clientWidth + 1).length;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_nothing_is_cut_or_overlaps_at_400_pixels(
    tmp_path: Path, count: int, dark: bool
) -> None:
    said = in_browser(
        tmp_path,
        render(Recording([*many_spans(count), *(sample_recording().spans if count else [])])),
        FITS + 'said.dark = matchMedia("(prefers-color-scheme: dark)").matches;'
        "said.page = getComputedStyle(document.body).backgroundColor;",
        frame_width=400,
        dark=dark,
    )
    assert said["dark"] is dark
    assert said["page"] == ("rgb(14, 18, 24)" if dark else "rgb(255, 255, 255)")
    assert (said["wide"], said["scrolls"], said["overlaps"]) == ([], False, 0)
    assert said["cutNames"] == 0 or count


def test_page_without_spans_says_what_to_do_in_one_sentence(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(Recording()),
        """
        said.counts = $("counts").textContent;
        said.text = document.querySelector(".nothing").innerText;
        said.main = shown("time-title");
        """,
    )
    assert said["counts"] == "0 spans in 0 traces"
    assert said["text"].startswith("No span was recorded. Run your program with llamatelemetry run")
    assert not said["main"]


def test_page_with_one_span_that_is_no_call_shows_its_trace(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(Recording([span(1)])),
        """
        said.shown = ["time-title", "latency-title", "timeline-title", "traces-title"].filter(shown);
        said.name = $("details").querySelector(".lead b").textContent;
        """,
    )
    assert said == {"shown": ["traces-title"], "name": "span 1"}


def test_small_run_stays_below_400_kb() -> None:
    assert len(render(Recording(many_spans(30))).encode()) < 150_000
    assert len(render(Recording(many_spans(5000))).encode()) < 420_000


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
    assert said["drawn"] == 5
    assert said["note"].startswith("The height is the number of calls at once.")
    assert said["zoomed"][0]
    if count == 5_000:
        assert said["zoomed"][1].startswith("Each bar is a call")


def test_live_page_without_spans_shows_the_first_ones_when_they_arrive(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(Recording(), live=True, position="0.0.0").replace("if (LIVE) poll", "if (false) poll"),
        """
        said.before = [shown("time-title"), document.querySelector(".nothing").innerText.slice(0, 30)];
        add({ base: 0, resources: [[]], events: {}, links: {}, series: [], values: ["t", "n", "", "chat", "m", null, "decode"], spans: {
          trace: [0], id: ["a"], parent: [""], name: [1], scope: [2], resource: [0], start: [0], duration: [1000], failed: [0],
          message: [2], role: [1], call: [[3, 4, 1, null, 2, null, null, 5]], parts: [[6, 1000, 2]], why: [2], attributes: [[]] } });
        filtered(true); overview({ columns: ["Operation", "Model", "Calls", "Errors"], rows: [["chat", "m", 1, 0]] }); charts();
        said.after = [shown("time-title"), $("summary").innerText.replace(/\\s+/g, " ")];
        """,
    )
    assert said["before"] == [False, "No span has arrived yet. This "]
    assert said["after"] == [True, "Operation Model Calls Errors chat m 1 0"]


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


def test_phases_without_a_call_are_drawn(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path, render(Recording([phase(1, "decode", 9)])), 'said.rows = texts("waterfall");'
    )
    assert [line.split(" ")[0] for line in said["rows"]] == ["decode"]
