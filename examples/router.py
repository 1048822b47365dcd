"""A router over several servers: the least busy one gets a request, and the next one if it fails.

Each request is a workflow. Each attempt is a span with the address of its server, so the trace shows
which server failed, and the metrics compare the servers.

    pip install llamatelemetry openai
    llamatelemetry run -- python examples/router.py MODEL http://127.0.0.1:8080/v1 http://127.0.0.1:8081/v1
"""

import asyncio
import os
import sys
from collections import Counter

from openai import APIConnectionError, AsyncOpenAI, InternalServerError

from llamatelemetry import workflow

QUESTIONS = ("What is a comet?", "What is a meteor?", "What is a nebula?", "What is a pulsar?")


class Router:
    """Sends each request to the server with the fewest requests in flight."""

    def __init__(self, model: str, urls: list[str]) -> None:
        self._model = model
        key = os.environ.get("OPENAI_API_KEY", "none")
        # No retries: the next server is the retry.
        self._clients = {url: AsyncOpenAI(base_url=url, api_key=key, max_retries=0) for url in urls}
        self._in_flight: Counter[str] = Counter()

    @workflow("route")
    async def ask(self, question: str) -> str:
        """Return the answer of the first server that gives one.

        Raises:
            RuntimeError: Every server failed.
        """
        for url in sorted(self._clients, key=self._in_flight.__getitem__):
            self._in_flight[url] += 1
            try:
                return f"{url}: {await self._send(self._clients[url], question)}"
            except (APIConnectionError, InternalServerError) as error:
                print(f"{url}: {type(error).__name__}, trying the next server")
            finally:
                self._in_flight[url] -= 1
        raise RuntimeError("every server failed")

    async def _send(self, client: AsyncOpenAI, question: str) -> str:
        response = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": question}],
            max_tokens=16,
            temperature=0,
        )
        return " ".join((response.choices[0].message.content or "").split())

    async def close(self) -> None:
        """Close the connections to all servers."""
        for client in self._clients.values():
            await client.close()


async def main() -> None:
    """Send all questions at the same time."""
    model, *urls = sys.argv[1:] or sys.exit("usage: router.py MODEL URL...")
    router = Router(model, urls)
    for answer in await asyncio.gather(*map(router.ask, QUESTIONS)):
        print(answer)
    await router.close()


if __name__ == "__main__":
    asyncio.run(main())
