"""A FastAPI service that streams a model's answers. Each request is one trace.

The span of the workflow lasts from the first to the last piece of the answer. The call of the model
is its child. Both have the conversation that the header `x-conversation-id` names.

    pip install llamatelemetry openai fastapi uvicorn
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none
    llamatelemetry run -- uvicorn --app-dir examples fastapi_service:app
    curl --no-buffer --json '{"text": "Why do stars twinkle?"}' http://127.0.0.1:8000/chat
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

from llamatelemetry import session, workflow

SYSTEM = "You are a friendly guide to the night sky. Answer in one short sentence."


class Question(BaseModel):
    """Body of a request."""

    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the whole life of the service."""
    async with AsyncOpenAI() as client:
        app.state.client = client
        app.state.model = (await client.models.list()).data[0].id
        yield


app = FastAPI(lifespan=lifespan)


@app.middleware("http")
async def assign_conversation(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Put all spans of a request into the conversation of its header."""
    conversation = request.headers.get("x-conversation-id")
    if not conversation:
        return await call_next(request)
    with session(conversation):
        return await call_next(request)


@workflow
async def answer(client: AsyncOpenAI, model: str, text: str) -> AsyncIterator[str]:
    """Yield the pieces of an answer as they arrive."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        max_tokens=32,
        temperature=0,
        stream=True,
    )
    async with stream:  # The server stops generating if the caller disconnects.
        async for chunk in stream:
            for choice in chunk.choices:
                yield choice.delta.content or ""


@app.post("/chat")
async def chat(question: Question, request: Request) -> StreamingResponse:
    """Stream the answer to a question as plain text."""
    state = request.app.state
    return StreamingResponse(
        answer(state.client, state.model, question.text), media_type="text/plain"
    )
