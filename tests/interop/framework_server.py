"""A loopback server that responds like llama.cpp to chat completions and Responses requests.

It runs in the environments of `scripts/test_frameworks.py`, so it may only import the standard
library.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 21, 5
MODEL = "gpt-4o-mini"  # Some frameworks accept only models that they know.

_HEAD = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
_TIMINGS = {
    "prompt_n": INPUT_TOKENS,
    "prompt_ms": 2.0,
    "predicted_n": OUTPUT_TOKENS,
    "predicted_ms": 4.0,
}


def _message(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer: a call of the first tool if there are any, otherwise a text."""
    if request.get("tools") and not any(each["role"] == "tool" for each in request["messages"]):
        function = {"name": request["tools"][0]["function"]["name"], "arguments": '{"name": "Ada"}'}
        calls = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        return {"role": "assistant", "content": None, "tool_calls": calls}
    return {"role": "assistant", "content": "Hi"}


def _chat(request: dict[str, Any]) -> dict[str, Any]:
    message = _message(request)
    reason = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    head = _HEAD | {"object": "chat.completion"}
    return head | {"choices": [choice], "usage": _USAGE, "timings": _TIMINGS}


def _chat_chunks(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    head, message = _HEAD | {"object": "chat.completion.chunk"}, _message(request)
    reason = "tool_calls" if "tool_calls" in message else "stop"
    yield head | {"choices": [{"index": 0, "delta": message, "finish_reason": None}]}
    last = head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if not (request.get("stream_options") or {}).get("include_usage"):
        yield last | {"timings": _TIMINGS}
    else:
        yield last
        yield head | {"choices": [], "usage": _USAGE, "timings": _TIMINGS}


def _response(status: str = "completed") -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": MODEL,
        "status": status,
        "output": [message | {"content": [text]}] if status == "completed" else [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": INPUT_TOKENS,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": OUTPUT_TOKENS,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    }


def _response_events() -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": _response("in_progress"), "sequence_number": 0}
    yield {"type": "response.completed", "response": _response(), "sequence_number": 1}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith(("/chat/completions", "/responses")):
            self.server.traceparents.append(self.headers.get("traceparent"))
            self._respond(json.loads(body))
        else:  # The endpoints that Langfuse exports to.
            self._send(b"{}", "application/json")

    def _respond(self, request: dict[str, Any]) -> None:
        is_chat = self.path.endswith("/chat/completions")
        if not request.get("stream"):
            answer = _chat(request) if is_chat else _response()
            self._send(json.dumps(answer).encode(), "application/json")
            return
        if is_chat:
            events = "".join(f"data: {json.dumps(each)}\n\n" for each in _chat_chunks(request))
            events += "data: [DONE]\n\n"
        else:
            events = "".join(
                f"event: {each['type']}\ndata: {json.dumps(each)}\n\n"
                for each in _response_events()
            )
        self._send(events.encode(), "text/event-stream")

    def _send(self, body: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("server", "llama.cpp")
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    traceparents: list[str | None]


@contextmanager
def framework_server() -> Iterator[tuple[str, list[str | None]]]:
    """Start the server. Yield its base URL, and the `traceparent` of each request to a model."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.traceparents = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", server.traceparents
    finally:
        server.shutdown()
        server.server_close()
