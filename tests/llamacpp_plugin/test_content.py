"""Content is recorded only if capture is on, for every endpoint."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import httpx
import httpx2
import pytest
import requests

from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_cpp_responses import ROUTES, SECRET
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
        assert SECRET not in span.to_json()
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
    assert question["parts"] == [{"type": "text", "content": f"{SECRET} question"}]
    assert answer["parts"] == [{"type": "text", "content": f"{SECRET} answer"}]
    assert answer["finish_reason"] == "stop"


def interrupted(path: str, *, is_failed: bool) -> list[bytes]:
    """Return a long stream. The connection is lost at the end of a failed one."""
    first, *middle, last = ROUTES[path][2]
    if is_failed:
        return chunked([first, *middle * 20], is_ended=False)
    return chunked([first, *middle * 20, last])


def check_output(recorder: Recorder, finish_reason: str) -> None:
    [message] = json.loads(recorder.call().attributes["gen_ai.output.messages"])
    [part] = message.pop("parts")
    assert message == {"role": "assistant", "finish_reason": finish_reason}
    assert part["content"].startswith(f"{SECRET} ans")


@cases
@pytest.mark.parametrize(("is_failed", "finish_reason"), [(True, "error"), (False, "unknown")])
@pytest.mark.parametrize("caller", STREAMED)
def test_interrupted_stream_records_message_with_finish_reason(
    instrument: Callable[..., Recorder],
    caller: str,
    path: str,
    is_failed: bool,
    finish_reason: str,
) -> None:
    recorder = instrument(capture_content="span_only")
    body = {**ROUTES[path][0], "stream": True}
    with scripted(interrupted(path, is_failed=is_failed)) as server:
        chunks = None if is_failed else 3
        CALLERS[caller](CallerRequest(f"{server.origin}{path}", body, chunks=chunks))
    check_output(recorder, finish_reason)


def drop_httpx_stream(library: Any, url: str, body: dict[str, Any]) -> None:
    client = library.Client()
    response = client.send(client.build_request("POST", url, json=body), stream=True)
    list(islice(response.iter_bytes(), 3))


def drop_requests_stream(library: Any, url: str, body: dict[str, Any]) -> None:
    response = library.Session().post(url, json=body, stream=True)
    list(islice(response.iter_content(None), 3))


@cases
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("drop", "library"),
    [
        (drop_httpx_stream, httpx),
        (drop_httpx_stream, httpx2),
        (drop_requests_stream, requests),
    ],
    ids=["httpx", "httpx2", "requests"],
)
def test_dropped_stream_records_message_with_finish_reason(
    instrument: Callable[..., Recorder], drop: Callable[..., None], library: Any, path: str
) -> None:
    recorder = instrument(capture_content="span_only")
    with scripted(interrupted(path, is_failed=False)) as server:
        drop(library, f"{server.origin}{path}", {**ROUTES[path][0], "stream": True})
        gc.collect()
    check_output(recorder, "unknown")
