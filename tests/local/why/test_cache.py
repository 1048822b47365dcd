"""Prompts that were processed again: the cause, and the milliseconds."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.local.records import SpanRecord
from tests.support.explained_calls import call, explained, part, sections, target

AT = 200_000.0
TOOLS = [("tools", 400, "a"), ("tools", 300, "b")]
TEXTS = [("system", 700, "s"), ("user", 100, "u"), ("assistant", 100, "v"), ("user", 100, "w")]
# 1,700 characters are 170 tokens here.


def reference(**options: Any) -> SpanRecord:
    """Return the call that processed the start of the prompt: 1,500 characters."""
    prompt = {
        "llamatelemetry.prompt.sections": sections(*TOOLS, *TEXTS[:2]),
        "llamatelemetry.prompt.chars": 1500,
    }
    found = {"processed": 150, "cached": 0, "output": 11, **prompt, **options}
    return call(90, AT - 10_000, **found)


def after(cached: int, **prompt: Any) -> SpanRecord:
    """Return a call of 170 tokens. The cache had some of them."""
    common = {
        "chars": 1700,
        "sections": sections(*TOOLS, *TEXTS),
        "reference": reference().span_id,
        "common_chars": 1500,
        "same_chars": 1500,
    }
    found = {f"llamatelemetry.prompt.{name}": value for name, value in (common | prompt).items()}
    request = {"llamatelemetry.request.cache_prompt": prompt.get("cache_prompt")}
    return call(99, AT, cached=cached, processed=170 - cached, **(found | request))


def test_growing_conversation_in_the_cache_is_normal():
    assert target(reference(), after(160)).top_cause == "normal"


@pytest.mark.parametrize(
    ("cached", "prompt", "cause", "evidence"),
    [
        (0, {"cache_prompt": False}, "cache_not_used", "the request set cache_prompt=false"),
        (
            70,
            {"first_change": "messages[0] system", "common_chars": 700, "change_at": 3},
            "section_changed",
            "messages[0] system changed at character 3",
        ),
        (
            5,
            {
                "first_change": "tools[0] order",
                "common_chars": 20,
                "sections": sections(*reversed(TOOLS), *TEXTS),
            },
            "tools_reordered",
            "the order of the tools changed, from tools[0]",
        ),
        (0, {}, "unknown", "no other known prompt ran on the server since"),
        # More is in the cache than the common prefix: another prompt had left it there.
        (
            60,
            {
                "first_change": "tools[0]",
                "common_chars": 20,
                "sections": sections(("tools", 400, "c"), TOOLS[1], *TEXTS),
            },
            "section_changed",
            "tools[0] changed",
        ),
    ],
)
def test_cause_of_a_miss(cached: int, prompt: dict[str, Any], cause: str, evidence: str):
    found = target(reference(), after(cached, **prompt))

    again = part(found, "prefill_again")
    assert (found.top_cause, again.cause) == ("prefill_again", cause)
    assert again.evidence.endswith(f"shared with call 00005a: {evidence}")


def test_prompt_is_evicted_while_other_prompts_ran():
    others = [call(number, AT - 5000 + number * 10) for number in (95, 96)]

    found = target(reference(), *others, after(0))

    again = part(found, "prefill_again")
    assert again.cause == "evicted"
    assert "dropped from the cache while 2 other prompts ran on this server" in again.evidence
    # 150 + 11 - 1 tokens of the reference at 5 ms each.
    assert again.ms == pytest.approx(800, abs=1)


def test_answer_of_a_long_conversation_is_found_behind_grouped_sections():
    start = (("system", 1000, "s"), ("*5", 400, "g"), ("user", 100, "u"))
    before = reference(**{"llamatelemetry.prompt.sections": sections(*start)})

    found = target(before, call(95, AT - 5000), after(0, sections=sections(*start, *TEXTS[2:])))

    assert part(found, "prefill_again").ms == pytest.approx(800, abs=1)


def test_slot_of_a_running_reference_is_busy():
    running = reference(output=1500)

    assert part(target(running, after(0)), "prefill_again").cause == "slot_busy"


def test_prompt_without_a_reference_is_a_first_call():
    found = target(after(0, reference=None, common_chars=None, same_chars=None))

    assert part(found, "prefill_again").cause == "first_call"
    assert part(found, "prefill_again").ms == pytest.approx(870, abs=1)


def test_prompt_known_to_another_process_is_not_a_first_call():
    worker = reference(resource={"service.instance.id": "two"})

    found = target(worker, after(0, reference=None, common_chars=None, same_chars=None))

    assert "prefill_again" not in {each.name for each in found.parts}


def test_question_shared_with_another_conversation_is_not_a_changed_prompt():
    other = after(
        0,
        first_change="messages[0] system",
        common_chars=0,
        same_chars=100,
        sections=sections(("system", 1600, "other"), ("user", 100, "u")),
    )

    assert part(target(reference(), other), "prefill_again").cause == "first_call"


def test_answer_without_its_reasoning_is_not_a_loss():
    # The output of the reference had 200 tokens. The next prompt repeats 10 of them.
    thinking = reference(output=200)

    assert target(thinking, after(150)).top_cause == "normal"


def test_cache_is_not_blamed_without_sections():
    hidden = dict.fromkeys(("chars", "sections", "reference", "common_chars", "same_chars"))

    found = target(reference(), after(0, **hidden))

    assert found.top_cause == "normal"
    assert "prefill_again" not in {each.name for each in found.parts}


def test_totals_count_the_prefills_again():
    explanation = explained(reference(), after(0))

    assert explanation.totals["prefill_again"] == pytest.approx(
        sum(p.ms for c in explanation.calls for p in c.parts if p.name == "prefill_again")
    )
    assert list(explanation.totals)[-1] == "application"
