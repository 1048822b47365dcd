"""A program that asks a model a question every second. It contains no telemetry code."""

from __future__ import annotations

import itertools
import time

import openai

client = openai.OpenAI()
model = client.models.list().data[0].id
for number in itertools.count():
    question = f"Name a city with {number % 9 + 4} letters."
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=32,
    )
    for _ in stream:
        pass
    time.sleep(1)
