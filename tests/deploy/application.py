"""The application whose telemetry the dashboards show: `python application.py SERVER_URL`.

Threads call a llama.cpp server until standard input ends: streams with repeated and new prompts,
more at once than the server has slots, and requests that fail.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
from opentelemetry import trace

THREADS = 6
_ends = threading.Event()
_numbers = itertools.count()
REPEATED = "Write one sentence about the city of Bern and its river. " * 8


def chat(client: openai.OpenAI, prompt: str, **options: object) -> None:
    messages = [{"role": "user", "content": prompt}]
    stream = client.chat.completions.create(
        model="smol",
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=12,
        **options,
    )
    for _ in stream:
        pass


def work(client: openai.OpenAI) -> None:
    while not _ends.is_set():
        number = next(_numbers)
        # Two of three prompts begin alike, so the cache has them.
        prompt = REPEATED if number % 3 else f"Question {number}: {number * 7919} " * 20
        try:
            if number % 8 == 5:
                chat(client, prompt, temperature="hot")  # status 400
            elif number % 8 == 6:
                chat(client.with_options(base_url="http://127.0.0.1:9/v1"), prompt)
            else:
                chat(client, prompt)
        except openai.OpenAIError:
            _ends.wait(0.1)
        # More spans than the export queue takes, and log records.
        for _ in range(40):
            trace.get_tracer("application").start_span("step").end()
        logging.getLogger("application").warning("step %d", number)


def main(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(THREADS):
            pool.submit(work, client)
        sys.stdin.read()
        _ends.set()


if __name__ == "__main__":
    main(sys.argv[1])
