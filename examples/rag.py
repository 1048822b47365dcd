"""Retrieval-augmented generation: embed, retrieve, answer. Every step is a span of one trace.

The decorators name the steps. The calls of the embedding model and of the chat model are recorded
below them. The server must return embeddings: llama.cpp needs `--embeddings --pooling mean`. A model
that was trained for embeddings finds better documents than a chat model.

    pip install llamatelemetry openai
    llamatelemetry run -- python examples/rag.py "Which planet has rings?"
"""

import math
import sys
from typing import Any

from openai import OpenAI

from llamatelemetry import session, task, workflow

DOCUMENTS = (
    "Mercury is the smallest planet. A year on Mercury lasts 88 days.",
    "Venus is the hottest planet. Its surface has about 465 degrees Celsius.",
    "Mars is red because of iron oxide in its soil. It has two small moons.",
    "Jupiter is the largest planet. Its Great Red Spot is a storm.",
    "Saturn has rings of ice and rock. It would float in water.",
)
PROMPT = "Answer in one sentence, from this text only.\n\nText: {text}\n\nQuestion: {question}"


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of the angle between two vectors of equal length."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


@task
def embed(client: OpenAI, model: str, texts: list[str]) -> list[list[float]]:
    """Return one vector for each text."""
    response = client.embeddings.create(model=model, input=texts)
    return [each.embedding for each in response.data]


@task
def retrieve(client: OpenAI, model: str, question: str, top_k: int) -> list[str]:
    """Return the `top_k` documents that are most similar to the question."""
    wanted, *vectors = embed(client, model, [question, *DOCUMENTS])
    scored = sorted(zip(vectors, DOCUMENTS, strict=True), key=lambda each: -cosine(wanted, each[0]))
    return [document for _, document in scored[:top_k]]


@task
def generate(client: OpenAI, model: str, question: str, documents: list[str]) -> str:
    """Answer the question from the documents."""
    content = PROMPT.format(text=" ".join(documents), question=question)
    messages: list[Any] = [{"role": "user", "content": content}]
    response = client.chat.completions.create(
        model=model, messages=messages, max_tokens=48, temperature=0
    )
    return response.choices[0].message.content or ""


@workflow("rag", top_k=2)
def answer(client: OpenAI, model: str, question: str) -> str:
    """Retrieve documents and answer the question from them."""
    documents = retrieve(client, model, question, top_k=2)
    for document in documents:
        print(f"found: {document}")
    return generate(client, model, question, documents)


def main() -> None:
    """Answer the question in the arguments."""
    question = " ".join(sys.argv[1:]) or "Which planet has rings?"
    with OpenAI() as client, session("example-rag"):
        model = client.models.list().data[0].id
        print(f"answer: {answer(client, model, question)}")


if __name__ == "__main__":
    main()
