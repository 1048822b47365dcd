"""Calls of an application that scripts/migration_tables.py runs with each instrumentation."""

import contextlib
from typing import Any

import openai

client = openai.OpenAI(max_retries=0)
model = client.models.list().data[0].id
chat = client.chat.completions.create
MESSAGES: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say hi."},
]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "greet",
        "description": "Greet a person.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}

chat(model=model, messages=MESSAGES, max_tokens=8, temperature=0.5, top_p=0.9, seed=1, stop=["!!"])
usage: Any = {"include_usage": True}
for _ in chat(model=model, messages=MESSAGES, max_tokens=8, stream=True, stream_options=usage):
    pass
chat(model=model, messages=MESSAGES, max_tokens=8, tools=[TOOL])
client.completions.create(model=model, prompt="The sky is", max_tokens=4)
client.embeddings.create(model=model, input="hello")
with contextlib.suppress(openai.APIError):
    wrong: Any = "hot"
    chat(model=model, messages=MESSAGES, max_tokens=8, temperature=wrong)
