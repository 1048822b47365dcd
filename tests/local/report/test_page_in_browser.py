"""The report in a real browser: drawing, keyboard, addresses, and safety of recorded data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamatelemetry.local.records import Event, Link, MetricPoint, Run
from llamatelemetry.local.report import Recording, render
from llamatelemetry.local.report.columns import columns, compact
from tests.local.report_in_browser import in_browser, live_page
from tests.support import browser
from tests.support.example_records import (
    EVIL,
    START_NS,
    call,
    phase,
    sample_recording,
    span,
    vllm,
)

pytestmark = browser.MARKS
ID_OF_CALL = {"trace_id": call(1).trace_id, "span_id": call(1).span_id}


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
        said.headings = textsOf(details, "h3");
        said.roles = textsOf(details, ".message > b");
        said.tools = textsOf(details, ".inner > b, .inner > summary");
        said.data = textsOf(details, ".message.tool dl *");
        const folded = details.querySelector(".fold");
        said.height = folded.clientHeight;
        details.querySelector("button.more").click();
        said.unfolded = details.querySelector(".message.system pre").clientHeight;
        const attributes = details.querySelector("dl:not(.message dl)").innerText;
        said.before = attributes.includes("gen_ai.input.messages");
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
        f"""
        show(traces.get("{1:032x}"), byId.get("{1:032x}{1:016x}"));
        const search = $("details").querySelector("input[type=search]");
        search.value = "two"; search.dispatchEvent(new Event("input"));
        said.found = textsOf(search.parentElement.nextElementSibling, "dt");
        said.resource = $("details").querySelector("details").textContent.includes("service.name");
        said.other = $("details").innerText.includes("not in this recording");
        $("details").querySelector("p > a").click();
        await settled();
        said.followed = [location.hash, $("list").getAttribute("aria-activedescendant")];
        """,
    )
    assert said["found"] == ["beta"]
    assert said["resource"]
    assert said["other"]
    assert said["followed"] == [f"#{2:032x}/{7:016x}", "list-0"]


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
        const isShown = (each) =>
          textsOf(document, each).some((text) => text.includes("<script>alert"));
        said.shown = [
          "h1", "#calls", "#summary", "#list", "#waterfall", "#details", ".legend", ".note",
        ].filter(isShown);
        said.count = $("details").textContent.split("<script>alert").length - 1;
        """,
    )
    assert said["markup"] == 3  # the data, the page's own script and the test's
    assert said["shown"] == [
        *("h1", "#calls", "#summary", "#list", "#waterfall", "#details", ".legend", ".note"),
    ]
    assert said["count"] > 20


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


def test_live_page_without_spans_shows_the_first_ones_when_they_arrive(tmp_path: Path) -> None:
    one = compact(columns([call(1)]))
    said = in_browser(
        tmp_path,
        live_page(Recording()),
        f"""
        const text = document.querySelector(".nothing").innerText;
        said.before = [shown("time-title"), text.slice(0, 24)];
        add({one});
        filtered(true);
        overview({{ columns: ["Operation", "Model", "Calls", "Errors"], rows: [["chat", "m", 1, 0]] }});
        charts();
        said.after = [shown("time-title"), textsOf($("summary"), "td")];
        """,
    )
    assert said["before"] == [False, "No span has arrived yet."]
    assert said["after"] == [True, ["chat", "m", "1", "0"]]


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


def test_live_page_shows_the_content_that_arrives_after_its_span(tmp_path: Path) -> None:
    later = compact(columns([call(1)], logs=[replace(sample_recording().logs[0], **ID_OF_CALL)]))
    said = in_browser(
        tmp_path,
        live_page(Recording([call(1)])),
        f"""
        const answer = () => [showDetails(spans[0]), ...textsOf($("details"), ".message pre")].slice(1);
        said.before = answer();
        add({later});
        said.after = answer();
        """,
    )
    assert said == {"before": [], "after": ["an answer"]}


def test_duration_of_a_span_without_an_end_is_unknown(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(Recording([call(1), replace(call(2, trace=2), end_ns=0)])),
        """
        said.calls = textsOf($("calls"), ".right");
        said.traces = textsOf($("list"), ".row > .right:nth-child(2)");
        said.figures = textsOf($("figures"), "li").filter((text) => text.includes("Duration"));
        said.table = textsOf($("summary"), "td").at(-2);
        """,
    )
    assert said["calls"] == ["50 ms", "–"]  # noqa: RUF001 - the sign for unknown values
    assert sorted(said["traces"]) == ["50 ms", "–"]  # noqa: RUF001
    assert said["figures"] == ["50 msDuration, p50"]
    assert said["table"] == "50"


def test_phases_without_a_call_are_drawn(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path, render(Recording([phase(1, "decode", 9)])), 'said.rows = texts("waterfall");'
    )
    assert [line.split(" ")[0] for line in said["rows"]] == ["decode"]
