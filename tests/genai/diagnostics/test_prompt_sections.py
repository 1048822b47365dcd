"""Keyed sections of prompts: what earlier prompts share with a new one, and what changed first."""

from __future__ import annotations

import copy
import random
from typing import Any

import openai
import pytest
from hypothesis import given

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai.diagnostics.references import Prompt, PromptHistory
from llamatelemetry.genai.diagnostics.sections import SectionCache, part_name, parts_of
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.diagnostics import found
from tests.support.json_strategies import json_values
from tests.support.llama_server import LlamaServer
from tests.support.recorder import Recorder
from tests.support.scripted_stream import Script, scripted_server

SYSTEM = {"role": "system", "content": "Answer in one short sentence. " * 8}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("first", "second", "third")
]
QUESTION = {"role": "user", "content": "What is the tallest mountain?"}
ANSWER = {"role": "assistant", "content": "Mount Everest."}
NEXT = {"role": "user", "content": "And the second?"}


def words(count: int) -> str:
    """Return a text without repetition, so that parts of it are the same at one place only."""
    return " ".join(str(random.Random(count + each).random()) for each in range(count))


class Session:
    """Calls of one client, recorded with diagnostics."""

    def __init__(self, client: openai.OpenAI, recorder: Recorder) -> None:
        self._client = client
        self._recorder = recorder
        self.span_ids: list[str] = []

    def send(self, messages: Any, **options: Any) -> dict[str, Any]:
        """Send a prompt. Return `llamatelemetry.prompt.*`."""
        model = options.pop("model", f"m-{id(self)}")  # Prompts of other models are not compared.
        self._client.chat.completions.create(model=model, messages=messages, **options)
        self.span_ids.append(f"{self._recorder.calls()[-1].context.span_id:016x}")
        (prompt,) = found(self._recorder, "prompt")
        return prompt


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def session(diagnosed: Recorder, script: Script) -> Any:
    with (
        scripted_server(script) as origin,
        openai.OpenAI(base_url=f"{origin}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Session(client, diagnosed)


def test_first_prompt_has_sections_and_no_reference(session: Session):
    prompt = session.send([SYSTEM, QUESTION], tools=TOOLS)
    sections = [section.split(":") for section in prompt["sections"]]
    assert [kind for kind, _, _ in sections] == ["tools"] * 3 + ["system", "user"]
    assert [int(chars) for _, chars, _ in sections[3:]] == [len(SYSTEM["content"]), 29]
    assert all(len(digest) == 8 for _, _, digest in sections)
    assert prompt["chars"] == sum(int(chars) for _, chars, _ in sections)
    assert prompt.keys() == {"sections", "chars"}


def test_conversation_that_grows_refers_to_the_call_before(session: Session):
    before = session.send([SYSTEM, QUESTION])
    after = session.send([SYSTEM, QUESTION, ANSWER, NEXT])
    assert after["sections"][:2] == before["sections"]
    assert after["reference"] == session.span_ids[0]
    assert after["common_chars"] == before["chars"]
    assert not {"same_chars", "first_change", "change_at", "prefix_reference"} & after.keys()


def test_time_stamp_in_front_changes_the_first_message_only(session: Session):
    rest = words(60)
    before = session.send([{"role": "system", "content": f"09:14:55 {rest}"}, QUESTION])
    after = session.send([{"role": "system", "content": f"10:02:01 PM {rest}"}, QUESTION])
    assert after["reference"] == session.span_ids[0]
    assert after["first_change"] == "messages[0] system"
    assert (after["common_chars"], after["change_at"]) == (0, 0)
    assert before["chars"] - 9 - 128 <= after["same_chars"] <= before["chars"] - 9


def test_tools_in_another_order_share_everything_but_the_prefix(session: Session):
    before = session.send([SYSTEM, QUESTION], tools=TOOLS)
    after = session.send([SYSTEM, QUESTION], tools=[TOOLS[0], TOOLS[2], TOOLS[1]])
    assert after["first_change"] == "tools[1] order"
    assert after["same_chars"] == before["chars"]
    first = int(before["sections"][0].split(":")[1])
    assert first <= after["common_chars"] <= first + int(before["sections"][1].split(":")[1])
    assert sorted(after["sections"][:3]) == sorted(before["sections"][:3])


def test_edited_history_names_the_message_and_the_place(session: Session):
    text = words(50)
    messages = [SYSTEM, {"role": "user", "content": text}, ANSWER, NEXT]
    before = session.send(messages)
    edited = f"{text[:200]}, that is, {text[200:]}"
    after = session.send([SYSTEM, {"role": "user", "content": edited}, ANSWER, NEXT])
    assert after["first_change"] == "messages[1] user"
    assert 200 - 32 <= after["change_at"] <= 200
    assert after["common_chars"] == len(SYSTEM["content"]) + after["change_at"]
    assert before["chars"] - 64 - 64 <= after["same_chars"] <= before["chars"]


def test_longest_prefix_and_most_shared_prompt_can_be_different_calls(session: Session):
    text = words(80)
    session.send([SYSTEM, {"role": "user", "content": "a"}])
    session.send([{"role": "system", "content": "Now."}, {"role": "user", "content": text}])
    prompt = session.send([SYSTEM, {"role": "user", "content": text}])
    assert prompt["reference"] == session.span_ids[1]
    assert prompt["prefix_reference"] == session.span_ids[0]
    assert prompt["prefix_chars"] == len(SYSTEM["content"]) > prompt["common_chars"]


def test_message_that_the_application_changes_in_place_is_a_new_section(session: Session):
    messages = copy.deepcopy([SYSTEM, QUESTION])
    before = session.send(messages)
    messages[1]["content"] = "What is the deepest lake?"
    after = session.send(messages)
    assert before["sections"][0] == after["sections"][0]
    assert before["sections"][1] != after["sections"][1]


def test_prompt_that_the_server_rejected_is_no_reference(session: Session, script: Script):
    script.statuses = [400]
    with pytest.raises(openai.BadRequestError):
        session.send([SYSTEM, QUESTION], model="rejected")
    found(session._recorder, "prompt")
    assert "reference" not in session.send([SYSTEM, QUESTION], model="rejected")


def test_prompts_of_another_model_are_not_compared(session: Session):
    session.send([SYSTEM, QUESTION], model="one")
    assert "reference" not in session.send([SYSTEM, QUESTION], model="another")


def test_long_conversation_has_few_entries_that_stay_the_same(session: Session):
    messages = [{"role": "user", "content": f"message {number}"} for number in range(250)]
    before, after = session.send(messages[:66]), session.send(messages)
    assert len(before["sections"]) == 8 + 11 + 3
    assert before["sections"][:19] == after["sections"][:19]
    assert before["sections"][18].startswith("*5:")
    assert before["sections"][19].startswith("user:10:")
    assert len(after["sections"]) == 34 + 2
    assert after["sections"][33].startswith("*115:")


def test_option_switches_sections_off(recorded: Recorder):
    config = LlamaTelemetryConfig(diagnostics=True, prompt_sections=False)
    OpenAIInstrumentor().instrument(**recorded.providers, config=config)
    try:
        with scripted_server(Script()) as origin:
            openai.OpenAI(base_url=f"{origin}/v1", api_key="none").chat.completions.create(
                model="m", messages=[QUESTION]
            )
    finally:
        OpenAIInstrumentor().uninstrument()
    assert found(recorded, "prompt") == [{}]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"prompt": "text"}, ["prompt"]),
        ({"prompt": [1, 2, 3]}, ["prompt"]),
        ({"prompt": ["one", "two"]}, []),
        ({"instructions": "a", "input": "b"}, ["instructions", "input"]),
        (
            {"instructions": "a", "input": [{"role": "user", "content": "b"}], "tools": [{}]},
            ["tools[0]", "instructions", "input[0] user"],
        ),
        ({"system": [{"text": "a"}], "messages": [QUESTION]}, ["system", "messages[0] user"]),
        ({"messages": [{"role": "a secret", "content": "b"}]}, ["messages[0] other"]),
        ({"messages": "no list", "tools": {"no": "list"}}, []),
    ],
)
def test_names_of_sections_do_not_quote_the_request(body: dict[str, Any], names: list[str]):
    assert [part_name(part) for part in parts_of(body)] == names


@given(json_values())
def test_sections_of_any_json_are_the_same_again(value: Any):
    cache = SectionCache(b"k" * 32)
    body = {"tools": [value], "messages": [value, {"role": "user", "content": value}]}
    parts = parts_of(body)
    first, again = cache.sections_of(parts), cache.sections_of(copy.deepcopy(parts))
    assert [section.digest for section in first] == [section.digest for section in again]
    assert [section.chars for section in first] == [section.chars for section in again]
    assert len(first) <= 3


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"\ud800": object()}, {1, 2}, b"bytes", {("a",): 1}]
)
def test_value_that_is_not_json_leaves_the_sections_unknown_or_hashes_its_type(value: Any):
    cache = SectionCache(b"k" * 32)
    sections = cache.sections_of(parts_of({"messages": [{"role": "user", "content": value}]}))
    assert len(sections) <= 1


def test_hashes_depend_on_the_key():
    parts = parts_of({"messages": [QUESTION]})
    one, same, other = (
        SectionCache(key).sections_of(parts)[0].digest for key in (b"a" * 32, b"a" * 32, b"b" * 32)
    )
    assert one == same != other


@pytest.mark.parametrize(("before", "after", "head", "tail"), [
    ("a" * 100, "a" * 100, 96, 4),
    (words(10), words(10)[:-1] + "!", 160, 0),
    ("", "x", 0, 0),
])  # fmt: skip
def test_common_ends_are_whole_blocks_that_do_not_overlap(
    before: str, after: str, head: int, tail: int
):
    cache = SectionCache(b"k" * 32)
    one, other = (cache._section("user", text) for text in (before, after))
    found_head, found_tail = one.common_ends(other)
    assert found_tail == tail
    assert found_head <= len(before)
    assert found_head >= head or found_head % 32 == 0
    assert found_head + found_tail <= min(len(before), len(after))


TEXT = words(40)
OTHER = words(41)


@pytest.mark.parametrize(
    ("before", "after", "prefix", "same"),
    [
        ([TEXT + OTHER], [TEXT + SYSTEM["content"]], len(TEXT), len(TEXT)),
        ([OTHER + TEXT], [SYSTEM["content"] + TEXT], 0, len(TEXT)),
        ([OTHER, TEXT, "a"], ["b", TEXT, SYSTEM["content"]], 0, len(TEXT)),
        ([OTHER, "Continue."], [TEXT, "Continue."], 0, len("Continue.")),
    ],
    ids=["the start of a section", "the end of a section", "a long section", "a short section"],
)
def test_prompts_that_share_only_one_part_are_compared(
    before: list[str], after: list[str], prefix: int, same: int
):
    cache, history = SectionCache(b"k" * 32), PromptHistory()
    prompts = [
        Prompt(cache.sections_of(parts_of({"messages": [message(each) for each in texts]})), at)
        for at, texts in enumerate((before, ["c"], after))
    ]
    assert [history.add("m", each) for each in prompts[:2]] == [None, None]
    shared = history.add("m", prompts[2])
    assert shared is not None
    assert shared[0].prompt is prompts[0]
    # Less than one block more or less: other characters may be the same by chance.
    assert shared[0].prefix_chars == pytest.approx(prefix, abs=256)
    assert shared[0].same_chars == pytest.approx(same, abs=256)


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_cache_and_history_are_bounded():
    cache, history = SectionCache(b"k" * 32), PromptHistory()
    for number in range(5000):
        cache.sections_of(parts_of({"prompt": f"prompt {number}"}))
    assert len(cache._known) < 4096
    for number in range(20):
        cache.sections_of(parts_of({"prompt": str(number) * 1_000_000}))
    assert cache._bytes <= 4 * 1024 * 1024
    for number in range(100):
        history.add(number, _prompt(cache, number))
        history.add("one", _prompt(cache, number))
    assert len(history._prompts) <= 32
    assert len(history._prompts["one"]) <= 64


def _prompt(cache: SectionCache, number: int) -> Prompt:
    return Prompt(cache.sections_of(parts_of({"prompt": f"prompt {number}"})), number)


def test_real_server_had_the_common_prefix_of_a_growing_conversation(
    diagnosed: Recorder, llama_server: LlamaServer
):
    messages: list[Any] = [{"role": "user", "content": f"Name a river. {words(3)}"}]
    with openai.OpenAI(base_url=llama_server.url, api_key="none") as client:
        for _ in range(2):
            reply = client.chat.completions.create(
                model="growing", messages=messages, max_tokens=8, extra_body={"id_slot": 1}
            )
            messages += [
                {"role": "assistant", "content": reply.choices[0].message.content},
                {"role": "user", "content": "Another."},
            ]
    first, second = (dict(span.attributes or {}) for span in diagnosed.calls())
    first_id = f"{diagnosed.calls()[0].context.span_id:016x}"
    assert second["llamatelemetry.prompt.reference"] == first_id
    assert second["llamatelemetry.prompt.common_chars"] == first["llamatelemetry.prompt.chars"]
    assert "llamatelemetry.prompt.first_change" not in second
    assert second["llamatelemetry.cached_tokens"] > 0


def test_parameters_of_the_prompt_cache_are_recorded_without_diagnostics(
    recorder: Recorder, llama_server: LlamaServer
):
    OpenAIInstrumentor().instrument(**recorder.providers)
    try:
        with openai.OpenAI(base_url=llama_server.url, api_key="none") as client:
            client.chat.completions.create(
                model="m",
                messages=[QUESTION],
                max_tokens=2,
                extra_body={"cache_prompt": False, "id_slot": 0},
            )
    finally:
        OpenAIInstrumentor().uninstrument()
    attributes = recorder.call().attributes or {}
    assert attributes["llamatelemetry.request.cache_prompt"] is False
    assert attributes["llamatelemetry.request.id_slot"] == 0


def test_characters_of_a_tool_are_those_of_its_json_without_escapes():
    (section,) = SectionCache(b"key").sections_of(parts_of({"tools": [{"name": "größe"}]}))
    assert (section.kind, section.chars) == ("tools", len('{"name":"größe"}'))
