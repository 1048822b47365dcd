"""A program with all documented calls.

Its arguments are a GGUF file and a directory for the telemetry. It prints the results of the calls
as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import llamatelemetry
from llamatelemetry import ServerConfig, ServerManager
from llamatelemetry.inference import InferenceEngine, create_engine, traced_engine
from llamatelemetry.llama import (
    AsyncLlamaCppClient,
    LlamaCppClient,
    LlamaServerError,
    unwrap_openai_client,
    wrap_openai_client,
)

HELLO = [{"role": "user", "content": "Say hello."}]


class Loud:
    """A custom engine that delegates to another one."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine

    @property
    def model_name(self) -> str:
        return "loud"

    def generate(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        return self._engine.generate(prompt, *args, **kwargs).upper()

    def chat(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return self._engine.chat(messages, *args, **kwargs)


def use_client(url: str) -> dict[str, Any]:
    """Call all methods of the synchronous client."""
    found: dict[str, Any] = {}
    with LlamaCppClient(url, load_wait_s=5.0) as client:
        client.wait_until_ready(10)
        found["health"] = client.health().status
        found["model"] = client.models().data[0].id
        found["slots"] = [client.props().total_slots, len(client.slots())]
        tokens = client.tokenize("Hello")
        found["tokens"] = client.detokenize(tokens)
        found["template"] = "Say hello." in client.apply_template(HELLO)
        response = client.chat(HELLO, max_tokens=4)
        found["text"] = response.choices[0].message.content
        found["counted"] = [response.usage.completion_tokens, response.timings.prompt_ms > 0]
        chunks = list(client.chat(HELLO, max_tokens=4, stream=True))
        found["streamed"] = chunks[-1].timings.predicted_n
        created = client.chat.completions.create(messages=HELLO, max_tokens=4)
        found["created"] = created["usage"]["completion_tokens"]
        found["generated"] = len(client.generate("Once", 4, stop_sequences=["zzz"])) > 0
        found["completed"] = client.complete("Once", n_predict=4).tokens_predicted
        found["embedded"] = len(client.embed(["sun", "moon"]).data)
        found["refused"] = []
        for call in (lambda: client.rerank("q", ["a"]), lambda: client.infill("a", "b")):
            try:
                call()
            except LlamaServerError as error:
                found["refused"].append([error.status, error.type])
        found["counters"] = client.metrics()["tokens_predicted_total"] > 0
        found["is_engine"] = isinstance(client, InferenceEngine)
    return found


async def use_async_client(url: str) -> dict[str, Any]:
    """Call `chat` of the asynchronous client."""
    async with AsyncLlamaCppClient(url) as client:
        response = await client.chat(HELLO, max_tokens=4)
        chunks = [chunk async for chunk in await client.chat(HELLO, max_tokens=4, stream=True)]
    return {"async": [response.usage.completion_tokens, chunks[-1].timings.predicted_n]}


def use_openai(url: str, model: str) -> dict[str, Any]:
    """Wrap a client of the openai library twice, and unwrap it."""
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert wrap_openai_client(wrap_openai_client(client)) is client
        client.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
        unwrap_openai_client(client)
        client.models.list()
    return {}


def main(model_path: str, directory: str) -> None:
    """Start a server from the file and call it."""
    llamatelemetry.init(service_name="contract", exporter="file", export_path=directory)
    config = ServerConfig(model_path, port=0, n_ctx=512, n_parallel=2, threads=1, embeddings=True)
    with ServerManager(config) as server:
        found: dict[str, Any] = {"healthy": server.is_healthy(), "pid": server.pid > 0}
        found |= use_client(server.url)
        found |= asyncio.run(use_async_client(server.url))
        found |= use_openai(server.url, found["model"])
        with create_engine("llama.cpp", base_url=server.url) as engine:
            found["engine"] = bool(engine.generate("Once", max_tokens=4))
            found["own"] = traced_engine(Loud(engine)).generate("Once", max_tokens=4).isupper()
            url = server.url
            server.restart()
            found["restarted"] = server.url == url and bool(engine.chat(HELLO, max_tokens=4))
        found["logged"] = len(server.logs(5))
    found["flushed"] = llamatelemetry.flush(10)
    found["shut_down"] = llamatelemetry.shutdown(10)
    print(json.dumps(found))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
