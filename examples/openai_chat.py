"""An OpenAI program: chats, streams, concurrent calls, a completion, embeddings, an error.

It works with any OpenAI-compatible server. The client reads OPENAI_BASE_URL and OPENAI_API_KEY.
OPENAI_MODEL is the model; if unset, the first one that the server lists.
"""

import asyncio
import os
import sys
import textwrap
from typing import Any

from openai import APIError, AsyncOpenAI, OpenAI

SYSTEM = "You are a friendly guide to the night sky. Answer in one short sentence."


def question(model: str, text: str) -> dict[str, Any]:
    """Return the arguments of a chat. All start alike, so that a server can use its prompt cache."""
    return {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "max_tokens": 32,
        "temperature": 0,
    }


def show(kind: str, text: str | None) -> None:
    """Print a response on one line."""
    print(f"{kind:<18} {textwrap.shorten(text or '(nothing)', 58, placeholder=' ...')}", flush=True)


def chat(client: OpenAI, model: str) -> None:
    """Send a chat request."""
    answer = client.chat.completions.create(**question(model, "Why do stars twinkle?"))
    show("chat", answer.choices[0].message.content)


def streamed_chat(client: OpenAI, model: str) -> None:
    """Send a streamed chat request without usage, as most chat programs do."""
    request = question(model, "Which planet is the brightest?")
    stream = client.chat.completions.create(**request, stream=True)
    show("streamed chat", "".join(chunk.choices[0].delta.content or "" for chunk in stream))


def streamed_chat_with_usage(client: OpenAI, model: str) -> None:
    """Send a streamed chat request with usage, which is in a last chunk without choices."""
    request = question(model, "What is the Milky Way?")
    pieces, tokens = [], None
    for chunk in client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        tokens = chunk.usage.total_tokens if chunk.usage else tokens
    show(f"... {tokens} tokens", "".join(pieces))


def concurrent_chats(_client: OpenAI, model: str) -> None:
    """Send four chat requests at once, two streamed. A server with two slots queues two of them."""

    async def plain(client: AsyncOpenAI, text: str) -> str | None:
        answer = await client.chat.completions.create(**question(model, text))
        return answer.choices[0].message.content

    async def streamed(client: AsyncOpenAI, text: str) -> str:
        stream = await client.chat.completions.create(**question(model, text), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> None:
        async with AsyncOpenAI() as client:
            answers = await asyncio.gather(
                plain(client, "What is a comet?"),
                streamed(client, "What is a meteor?"),
                plain(client, "What is a nebula?"),
                streamed(client, "What is a pulsar?"),
            )
        for number, answer in enumerate(answers, start=1):
            show(f"at once, {number} of 4", answer)

    asyncio.run(ask_all())


def completion(client: OpenAI, model: str) -> None:
    """Send a completion request: a text to continue, without messages."""
    answer = client.completions.create(
        model=model, prompt="The moon is", max_tokens=16, temperature=0
    )
    show("completion", answer.choices[0].text)


def embeddings(client: OpenAI, model: str) -> None:
    """Send an embeddings request with two texts."""
    answer = client.embeddings.create(model=model, input=["the sun", "the moon"])
    show("embeddings", f"{len(answer.data)} vectors of {len(answer.data[0].embedding)} numbers")


def mistake(client: OpenAI, model: str) -> None:
    """Send a request that the server rejects, because the response format is invalid."""
    request = question(model, "Roses are red")
    client.chat.completions.create(**request, response_format={"type": "poem"})


def pick_model(client: OpenAI) -> str:
    """Return the model that OPENAI_MODEL names, or the first one of the server."""
    try:
        return os.environ.get("OPENAI_MODEL") or client.models.list().data[0].id
    except APIError as error:
        sys.exit(f"Cannot list the models of {client.base_url}: {error.message}")


def main() -> None:
    """Make ten calls. Print the errors that the server returns, and continue."""
    with OpenAI() as client:
        model = pick_model(client)
        for part in (
            chat,
            streamed_chat,
            streamed_chat_with_usage,
            concurrent_chats,
            completion,
            embeddings,
            mistake,
        ):
            try:
                part(client, model)
            except APIError as error:
                show("refused", error.message)


if __name__ == "__main__":
    main()
