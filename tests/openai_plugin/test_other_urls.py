"""Calls with URLs other than those of the resource methods, and methods on stored responses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import payloads
from tests.support.openai_operations import VERSION
from tests.support.recorder import Recorder

BODY = {"model": "smol", "messages": payloads.MESSAGES}
COMPACTED = {
    "id": "resp_2",
    "object": "response.compaction",
    "created_at": 1,
    "output": [{"id": "cmp_1", "type": "compaction", "encrypted_content": "..."}],
    "usage": payloads.RESPONSES_USAGE,
}


def client(*bodies: dict[str, Any]) -> Any:
    """Return a client whose server sends each body once."""
    left = [*bodies]
    return payloads.client(lambda _: payloads.json_response(left.pop(0)))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("chat/completions", ("llm.test", 8080)),
        ("/chat/completions?api-version=1", ("llm.test", 8080)),
        ("http://other.test:99/api/v1/chat/completions", ("other.test", 99)),
        ("https://other.test/openai/deployments/smol/chat/completions?x=1", ("other.test", 443)),
    ],
)
def test_post_with_any_form_of_url_is_recorded_with_its_server(
    instrumented: Recorder, url: str, server: tuple[str, int]
) -> None:
    client(payloads.chat()).post(url, cast_to=dict[str, Any], body=BODY)
    span = instrumented.call()
    assert span.name == "chat smol"
    attributes = span.attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == server
    assert attributes["gen_ai.usage.input_tokens"] == 21


def test_absolute_url_has_the_provider_of_its_host(instrumented: Recorder) -> None:
    url = "https://api.groq.com/openai/v1/chat/completions"
    client(payloads.chat()).post(url, cast_to=dict[str, Any], body=BODY)
    assert (instrumented.call().attributes or {})["gen_ai.provider.name"] == "groq"


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("get", "/organization/usage/completions"),
        ("post", "/v2/chat/completions"),
        ("post", "/threads/t_1/responses"),
        ("get", "/responses/resp_1/input_items"),
        ("post", "/responses/resp_1"),
        ("get", "/chat/completions/chatcmpl-1"),
    ],
)
def test_url_that_only_resembles_an_endpoint_is_not_recorded(
    instrumented: Recorder, method: str, url: str
) -> None:
    getattr(client({}), method)(url, cast_to=dict[str, Any])
    assert instrumented.calls() == []


@pytest.mark.skipif(VERSION < (2, 10), reason="this client cannot compact responses")
def test_compaction_records_its_tokens(instrumented: Recorder) -> None:
    client(COMPACTED).responses.compact(model="smol", input="Say hi.")
    span = instrumented.call()
    assert span.name == "generate_content smol"
    attributes = span.attributes or {}
    assert attributes["llamatelemetry.task"] == "compaction"
    assert attributes["gen_ai.conversation.compacted"] is True
    assert attributes["gen_ai.usage.input_tokens"] == 21
    assert instrumented.tokens("output") == 5


@pytest.mark.skipif(VERSION < (1, 79), reason="this client cannot cancel responses")
def test_cancellation_is_a_span_with_the_id_and_status_of_the_response(
    instrumented: Recorder,
) -> None:
    cancelled = payloads.response(status="cancelled", usage=None, output=[])
    client(cancelled).responses.cancel("resp_1")
    span = instrumented.call()
    assert span.name == "response_cancellation"
    attributes = span.attributes or {}
    assert attributes["gen_ai.response.id"] == "resp_1"
    assert attributes["gen_ai.response.status"] == "cancelled"
    assert "gen_ai.usage.input_tokens" not in attributes


@pytest.mark.skipif(VERSION < (1, 88), reason="this client has no background responses")
def test_background_response_is_counted_once_by_the_first_fetch_that_sees_it_finished(
    instrumented: Recorder,
) -> None:
    queued = payloads.response(status="queued", background=True, usage=None, output=[])
    done = payloads.response(background=True)
    openai = client(queued, {**queued, "status": "in_progress"}, done, done)
    openai.responses.create(model="smol", input="Say hi.", background=True)
    for _ in range(3):
        openai.responses.retrieve("resp_1")
    counted = [
        (span.attributes or {}).get("gen_ai.usage.input_tokens") for span in instrumented.calls()
    ]
    assert counted == [None, None, 21, None]
    assert instrumented.tokens("input") == 21


@pytest.mark.skipif(VERSION < (1, 88), reason="this client has no background responses")
def test_response_of_another_process_is_not_counted(instrumented: Recorder) -> None:
    client(payloads.response(background=True)).responses.retrieve("resp_1")
    assert "gen_ai.usage.input_tokens" not in (instrumented.call().attributes or {})
    assert instrumented.tokens("input") == 0
