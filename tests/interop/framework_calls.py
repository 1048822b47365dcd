"""Model calls of each framework, by name. Their functions need the base URL of the server.

The module runs in the environments of `scripts/test_frameworks.py`, each of which has some of the
frameworks.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

from tests.interop.framework_server import MODEL

QUESTION = "Say hi."
Action = Callable[[], Any]

RUNNER = asyncio.Runner()  # One event loop, because frameworks keep the connections of a loop.
LANGCHAIN_HANDLERS: list[Any] = []
"""Callback handlers of the instrumentations that have to be named in each call."""


def run_async(action: Callable[[], Coroutine[Any, Any, Any]]) -> Action:
    """Return a function that runs a coroutine in a context of its own."""
    return lambda: RUNNER.run(action(), context=contextvars.copy_context())


def langchain_calls(url: str) -> dict[str, Action]:
    from langchain.agents import create_agent
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI

    def model(**options: Any) -> ChatOpenAI:
        return ChatOpenAI(model=MODEL, base_url=url, api_key="x", max_retries=0, **options)

    config: Any = {"callbacks": LANGCHAIN_HANDLERS}

    async def achat() -> None:
        await model().ainvoke(QUESTION, config)

    async def astream() -> None:
        async for _ in model(stream_usage=True).astream(QUESTION, config):
            pass

    def greet(name: str) -> str:
        """Greet a person."""
        return f"Hello {name}"

    def chain() -> None:
        prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
        (prompt | model()).invoke({"question": QUESTION}, config)

    def agent() -> None:
        messages = {"messages": [{"role": "user", "content": QUESTION}]}
        create_agent(model(), [greet]).invoke(messages, config)

    async def achat_then_client() -> None:
        import openai

        await achat()
        client = openai.AsyncOpenAI(base_url=url, api_key="x")
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}]
        )

    return {
        "chat": lambda: model().invoke(QUESTION, config),
        "stream": lambda: list(model(stream_usage=True).stream(QUESTION, config)),
        "async chat": run_async(achat),
        "async stream": run_async(astream),
        "chain": chain,
        "agent": agent,
        "responses": lambda: model(use_responses_api=True).invoke(QUESTION, config),
        "async chat, then client": run_async(achat_then_client),
    }


def llama_index_calls(url: str) -> dict[str, Action]:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai import OpenAI
    from llama_index.llms.openai_like import OpenAILike

    def model(kind: Any, **options: Any) -> Any:
        return kind(model=MODEL, api_base=url, api_key="x", max_retries=0, **options)

    messages = [ChatMessage(role="user", content=QUESTION)]

    def like() -> Any:
        return model(OpenAILike, is_chat_model=True)

    async def achat() -> None:
        await model(OpenAI).achat(messages)

    async def astream() -> None:
        async for _ in await model(OpenAI).astream_chat(messages):
            pass

    return {
        "chat": lambda: model(OpenAI).chat(messages),
        "stream": lambda: list(model(OpenAI).stream_chat(messages)),
        "async chat": run_async(achat),
        "async stream": run_async(astream),
        "OpenAILike chat": lambda: like().chat(messages),
        "OpenAILike stream": lambda: list(like().stream_chat(messages)),
    }


def agents_calls(url: str) -> dict[str, Action]:
    import openai
    from agents import (
        Agent,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
    )

    @function_tool
    def greet(name: str) -> str:
        """Greet a person."""
        return f"Hello {name}"

    def agent(kind: Any, *tools: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0)
        return Agent(name="Greeter", model=kind(MODEL, client), tools=list(tools))

    def run(kind: Any, *tools: Any) -> Action:
        async def main() -> None:
            await Runner.run(agent(kind, *tools), QUESTION)

        return run_async(main)

    def stream(kind: Any) -> Action:
        async def main() -> None:
            async for _ in Runner.run_streamed(agent(kind), QUESTION).stream_events():
                pass

        return run_async(main)

    return {
        "chat": run(OpenAIChatCompletionsModel),
        "chat with tool": run(OpenAIChatCompletionsModel, greet),
        "chat stream": stream(OpenAIChatCompletionsModel),
        "responses": run(OpenAIResponsesModel),
        "responses stream": stream(OpenAIResponsesModel),
    }


def pydantic_ai_calls(url: str) -> dict[str, Action]:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def agent(kind: Any) -> Any:
        provider = OpenAIProvider(base_url=url, api_key="x")
        return Agent(kind(MODEL, provider=provider))

    def with_tool() -> None:
        tooled = agent(OpenAIChatModel)

        @tooled.tool_plain
        def greet(name: str) -> str:
            """Greet a person."""
            return f"Hello {name}"

        tooled.run_sync(QUESTION)

    async def stream() -> None:
        async with agent(OpenAIChatModel).run_stream(QUESTION) as result:
            async for _ in result.stream_text():
                pass

    return {
        "chat": lambda: agent(OpenAIChatModel).run_sync(QUESTION),
        "chat with tool": with_tool,
        "chat stream": run_async(stream),
        "responses": lambda: agent(OpenAIResponsesModel).run_sync(QUESTION),
    }


def litellm_calls(url: str) -> dict[str, Action]:
    import litellm

    options: Any = {
        "model": f"openai/{MODEL}",
        "messages": [{"role": "user", "content": QUESTION}],
        "api_base": url,
        "api_key": "x",
        "num_retries": 0,
    }
    usage = {"stream": True, "stream_options": {"include_usage": True}}

    async def achat() -> None:
        await litellm.acompletion(**options)
        await asyncio.sleep(0.5)  # Its callbacks run in a task.

    async def astream() -> None:
        async for _ in await litellm.acompletion(**options, **usage):
            pass
        await asyncio.sleep(0.5)

    return {
        "chat": lambda: litellm.completion(**options),
        "stream": lambda: list(litellm.completion(**options, **usage)),
        "async chat": run_async(achat),
        "async stream": run_async(astream),
    }


def client_calls(openai: Any, url: str) -> dict[str, Action]:
    options: Any = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    given: Any = {"base_url": url, "api_key": "x", "max_retries": 0}

    async def achat() -> None:
        await openai.AsyncOpenAI(**given).chat.completions.create(**options)

    async def astream() -> None:
        client = openai.AsyncOpenAI(**given)
        async for _ in await client.chat.completions.create(**options, **usage):
            pass

    client = openai.OpenAI(**given)
    return {
        "chat": lambda: client.chat.completions.create(**options),
        "stream": lambda: list(client.chat.completions.create(**options, **usage)),
        "async chat": run_async(achat),
        "async stream": run_async(astream),
        "responses": lambda: client.responses.create(model=MODEL, input=QUESTION),
    }


def langfuse_openai_calls(url: str) -> dict[str, Action]:
    return client_calls(importlib.import_module("langfuse.openai").openai, url)


def openai_calls(url: str) -> dict[str, Action]:
    return client_calls(importlib.import_module("openai"), url)


def instructor_calls(url: str) -> dict[str, Action]:
    import instructor
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str

    options: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "response_model": Person,
        "max_retries": 0,
    }
    given: Any = {"base_url": url, "api_key": "x", "max_retries": 0}

    async def achat() -> None:
        client = instructor.from_openai(openai.AsyncOpenAI(**given))
        await client.chat.completions.create(**options)

    client = instructor.from_openai(openai.OpenAI(**given))
    return {
        "chat": lambda: client.chat.completions.create(**options),
        "async chat": run_async(achat),
    }
