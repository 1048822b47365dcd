"""An application for gunicorn: each request makes one model call.

The response is the worker's process id and the tokens of the call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import openai

CLIENT = openai.OpenAI(api_key="none", max_retries=0)


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    usage = CLIENT.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Count to three."}],
        max_tokens=4,
    ).usage
    assert usage
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), usage.prompt_tokens, usage.completion_tokens]).encode()]
