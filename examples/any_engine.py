"""An OpenAI program that calls the servers in its arguments, each in the same way.

    llamatelemetry run -- python examples/any_engine.py http://127.0.0.1:8080/v1 http://127.0.0.1:8000/v1

Start vLLM with --enable-per-request-metrics. llama.cpp needs no setting.
"""

import sys

from openai import OpenAI

MESSAGES = [
    {"role": "user", "content": "Name three planets, and say something about each of them."}
]
TOKENS = 24


def call(client: OpenAI, model: str) -> None:
    """Send three chats, three streamed chats and three text completions."""
    for _ in range(3):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=TOKENS)
        stream = client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},  # vLLM reports on streams only with the usage
        )
        for _chunk in stream:
            pass
        client.completions.create(model=model, prompt="The moon is", max_tokens=TOKENS)


def main() -> None:
    """Call each server with the first model that it lists."""
    for url in sys.argv[1:] or sys.exit("usage: any_engine.py URL..."):
        with OpenAI(base_url=url, api_key="not-needed") as client:
            model = client.models.list().data[0].id
            call(client, model)
            print(f"called {model} at {url}")


if __name__ == "__main__":
    main()
