"""Content is recorded only if capture is on, for every endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_cpp_responses import ROUTES, SAID
from tests.support.recorder import Recorder

cases = pytest.mark.parametrize("path", ROUTES)


def send_request(caller: str, path: str) -> None:
    body, reply, stream = ROUTES[path]
    streamed = caller in STREAMED
    answer = chunked(stream) if streamed else plain(json.dumps(reply).encode())
    with scripted(answer) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}{path}", {**body, "stream": streamed}))


@cases
@pytest.mark.parametrize("caller", CALLERS)
def test_content_is_not_recorded_by_default(instrumented: Recorder, caller: str, path: str) -> None:
    send_request(caller, path)
    for span in instrumented.spans():
        assert SAID not in span.to_json()
    instrumented.call()


@cases
@pytest.mark.parametrize("caller", CALLERS)
def test_content_is_recorded_when_capture_is_on(
    instrument: Callable[..., Recorder], caller: str, path: str
) -> None:
    recorder = instrument(capture_content="span_only")
    send_request(caller, path)
    attributes = recorder.call().attributes
    (question,) = json.loads(attributes["gen_ai.input.messages"])
    (answer,) = json.loads(attributes["gen_ai.output.messages"])
    assert question["parts"] == [{"type": "text", "content": f"{SAID} question"}]
    assert answer["parts"] == [{"type": "text", "content": f"{SAID} answer"}]
    assert answer["finish_reason"] == "stop"
