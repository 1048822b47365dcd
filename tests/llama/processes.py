"""Requests to a llama.cpp server without a client library, and checks that a process has exited."""

from __future__ import annotations

import json
import subprocess
import urllib.request

from tests.support.waiting import wait_for


def post(url: str, body: dict, **headers: str) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def chat(origin: str, max_tokens: int = 4, **headers: str) -> dict:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"messages": messages, "max_tokens": max_tokens}
    return post(f"{origin}/v1/chat/completions", body, **headers)


def is_gone(pid: int) -> bool:
    """Return whether a process has exited or is a zombie. The test needs "ps"."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] in {"", "Z"}


def wait_until_gone(pid: int, timeout_s: float = 10) -> None:
    wait_for(lambda: is_gone(pid), timeout_s)
