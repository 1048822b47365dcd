"""What a worker does: two calls, of which one is a stream that it drops half-read."""

from __future__ import annotations

import gc
import os

import openai

CALLS = 2
MESSAGES = [{"role": "user", "content": "Hi"}]


def work(_: object = None) -> int:
    """Gives the id of the process that did it."""
    with openai.OpenAI() as client:
        client.chat.completions.create(model="smol", messages=MESSAGES)
        stream = client.chat.completions.create(model="smol", messages=MESSAGES, stream=True)
        next(iter(stream))
        del stream
        gc.collect()  # the reaper, a thread of ours, ends the call
    return os.getpid()
