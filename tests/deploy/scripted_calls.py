"""Streams with one prompt: `python scripted_calls.py SERVER_URL PROMPT`.

Each line of standard input replaces the prompt. The program ends with standard input.
"""

from __future__ import annotations

import sys
import threading

import openai

THREADS = 3
_ends = threading.Event()
_prompts: list[str] = []


def work(client: openai.OpenAI) -> None:
    while not _ends.wait(0.3):
        try:
            stream = client.chat.completions.create(
                model="smol",
                messages=[{"role": "user", "content": _prompts[-1]}],
                stream=True,
                stream_options={"include_usage": True},
            )
            for _ in stream:
                pass
        except openai.OpenAIError:
            pass  # counted by the instrumentation


def main(url: str, prompt: str) -> None:
    _prompts.append(prompt)
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    threads = [threading.Thread(target=work, args=(client,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        _prompts.append(line)  # noqa: PERF402 - each line is used at once
    _ends.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
