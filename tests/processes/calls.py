"""The work of a worker: a plain call, a stream that is read, and one that is abandoned."""

from __future__ import annotations

import gc
import os

import openai

CALLS = 3
MESSAGES = [{"role": "user", "content": "Hi"}]


def work(_: object = None) -> int:
    """Make the calls. Return the process id."""
    with openai.OpenAI() as client:
        client.chat.completions.create(model="smol", messages=MESSAGES)
        for _ in client.chat.completions.create(model="smol", messages=MESSAGES, stream=True):
            pass
        stream = client.chat.completions.create(model="smol", messages=MESSAGES, stream=True)
        next(iter(stream))
        del stream
        # A thread of llamatelemetry ends the abandoned call.
        gc.collect()
    return os.getpid()
