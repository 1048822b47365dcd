"""Retrieval-augmented generation: embed, retrieve, answer. Every step is a span of one trace.

The decorators name the steps, and the calls of the models are recorded below them. The server must
return embeddings, best those of an embedding model; llama.cpp needs `--embeddings --pooling mean`.

    pip install llamatelemetry openai
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none
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
    scores = [cosine(wanted, vector) for vector in vectors]
    ranked = sorted(zip(scores, DOCUMENTS, strict=True), reverse=True)
    return [document for _, document in ranked[:top_k]]


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
    """Return an answer from the documents that match the question."""
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
