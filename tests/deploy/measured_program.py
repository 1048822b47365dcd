"""Calls that differ in everything that must not become a metric attribute: `URL NUMBER`."""

from __future__ import annotations

import sys

import openai

import llamatelemetry


def main(url: str, number: int) -> None:
    client = openai.OpenAI(base_url=url, api_key="none")
    for each in range(number):
        with llamatelemetry.session(f"conversation-{each}", user_id=f"user-{each}"):
            stream = client.chat.completions.create(
                model="smol",
                messages=[{"role": "user", "content": f"Number {each}, please."}],
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=2 + each % 3,
                seed=each,
                temperature=each / 100,
                extra_headers={"x-request-id": f"request-{each}"},
            )
            for _ in stream:
                pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
