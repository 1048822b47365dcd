"""Recorded responses of a real vLLM 0.32, through the openai client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import payloads
from tests.support.recorder import Recorder

REPLIES = Path(__file__).parents[1] / "support" / "engine_replies" / "vllm"


def recorded(name: str) -> dict[str, Any]:
    return json.loads((REPLIES / f"{name}.json").read_text(encoding="utf-8"))


def replay(name: str) -> dict[str, Any]:
    """Send the recorded request with the openai client, and let it receive the recorded response.

    Returns:
        `metrics` of the response.
    """
    record = recorded(name)
    request = record["request"]
    streams = "events" in record

    def respond(_: Any) -> Any:
        if not streams:
            return payloads.json_response(record["body"])
        lines = (line for _, line in record["events"] if line)
        # A recorded event may have a line with its name before the one with its data.
        ended = (f"{line}\n\n" if line.startswith("data:") else f"{line}\n" for line in lines)
        return payloads.stream_response("".join(ended).encode())

    client = payloads.client(respond)
    resource: Any = client
    for part in request["path"].removeprefix("/v1/").split("/"):
        if not hasattr(resource, part):
            pytest.skip(f"this version of openai has no {part}")
        resource = getattr(resource, part)
    known = {"model", "messages", "prompt", "input", "stream", "n"}
    body = {name: value for name, value in request["body"].items() if name in known}
    result = resource.create(**body)
    if not streams:
        return record["body"].get("metrics") or {}
    list(result)
    chunks = [
        json.loads(line.removeprefix("data: "))
        for _, line in record["events"]
        if line.startswith("data: {")
    ]
    found = [chunk.get("response", chunk).get("metrics") for chunk in chunks]
    return next((each for each in reversed(found) if each), {})


@pytest.mark.parametrize(
    "name",
    [
        *("chat_plain", "chat_plain_again_cached", "chat_stream_usage", "chat_stream_continuous"),
        *("completion_plain", "completion_stream_usage", "responses_plain", "responses_stream"),
        "speculative_chat",
    ],
)
def test_phases_equal_the_figures_of_the_response(instrumented: Recorder, name: str) -> None:
    metrics = replay(name)
    (span,) = instrumented.calls()
    found = dict(span.attributes or {})
    assert found["gen_ai.provider.name"] == "vllm"
    assert found["gen_ai.prefill_ms"] == pytest.approx(metrics["time_to_first_token_ms"])
    assert found["gen_ai.decode_ms"] == pytest.approx(metrics["generation_time_ms"])
    assert found["llamatelemetry.queue_duration"] == pytest.approx(metrics["queue_time_ms"] / 1000)
    assert found["llamatelemetry.queue_source"] == "engine"
    assert found["gen_ai.tpot_ms"] == pytest.approx(metrics["mean_itl_ms"])
    assert found["gen_ai.server.time_to_first_token"] == pytest.approx(
        (metrics["queue_time_ms"] + metrics["time_to_first_token_ms"]) / 1000
    )
    assert set(instrumented.phases(span)) == {"queue", "prefill", "decode"}
    assert len(instrumented.points("gen_ai.server.request.duration")) == 1


def test_cached_tokens_and_drafts_are_recorded(instrumented: Recorder) -> None:
    replay("chat_plain_again_cached")
    replay("speculative_chat")
    cached, drafted = (dict(span.attributes or {}) for span in instrumented.calls())
    assert (cached["llamatelemetry.prompt_tokens"], cached["llamatelemetry.cached_tokens"]) == (
        *(9, 128),
    )
    drafts = recorded("speculative_chat")["body"]["metrics"]["speculative_decoding"]
    assert drafted["llamatelemetry.drafted_tokens"] == drafts["num_draft_tokens"]
    assert drafted["llamatelemetry.accepted_tokens"] == drafts["num_accepted_draft_tokens"]


def test_one_token_has_no_time_per_token(instrumented: Recorder) -> None:
    replay("chat_one_token")
    found = instrumented.call().attributes or {}
    assert found["gen_ai.decode_ms"] == 0.0
    assert "gen_ai.tpot_ms" not in found


@pytest.mark.parametrize(
    "name",
    [
        *("default_chat_plain", "default_chat_stream_usage", "default_responses_plain"),
        *("chat_n2", "chat_stream_plain", "completion_two_prompts"),
    ],
)
def test_response_without_metrics_has_no_phases_but_its_engine(
    instrumented: Recorder, name: str
) -> None:
    assert replay(name) == {}
    (span,) = instrumented.calls()
    found = dict(span.attributes or {})
    assert found["gen_ai.provider.name"] == "vllm"
    assert not {"gen_ai.prefill_ms", "gen_ai.decode_ms", "llamatelemetry.queue_duration"} & {*found}
    assert instrumented.points("gen_ai.server.request.duration") == []
    if name == "default_responses_plain":  # vLLM writes 0 there if it does not count them.
        assert "gen_ai.usage.cache_read.input_tokens" not in found


def test_figures_that_cover_several_choices_are_not_recorded(instrumented: Recorder) -> None:
    usage = {**payloads.USAGE, "timing_prompt_processing": 250, "timing_token_generation": 1000}
    client = payloads.client(lambda _: payloads.json_response(payloads.chat(usage=usage)))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES, n=2)
    found = instrumented.call().attributes or {}
    assert found["gen_ai.provider.name"] == "local_ai"
    assert "gen_ai.prefill_ms" not in found


def test_queue_in_headers_is_recorded(instrumented: Recorder) -> None:
    headers = {
        "x-queue-time": "500",
        "x-validation-time": "1",
        "x-time-per-token": "250",
        "x-generated-tokens": "5",
    }
    client = payloads.client(lambda _: payloads.json_response(payloads.chat(), **headers))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    found = instrumented.call().attributes or {}
    assert found["gen_ai.provider.name"] == "tgi"
    assert found["llamatelemetry.queue_duration"] == 0.5
    assert found["llamatelemetry.queue_source"] == "engine"
    assert "gen_ai.prefill_ms" not in found


def test_engine_is_remembered_for_its_server(instrumented: Recorder) -> None:
    plain, default = recorded("default_chat_plain")["body"], payloads.chat()
    bodies = [plain, default]
    client = payloads.client(lambda _: payloads.json_response(bodies.pop(0)))
    for _ in range(2):
        client.chat.completions.create(model="tiny", messages=payloads.MESSAGES)
    providers = [(span.attributes or {})["gen_ai.provider.name"] for span in instrumented.calls()]
    assert providers == ["vllm", "vllm"]
