"""A LangChain chain: invoked, streamed, and run as a batch. Each step of it that calls a model is a span.

llamatelemetry records the calls of `ChatOpenAI` in the client that LangChain uses. The engine's
timings are on the spans, although LangChain drops them from its responses.

    pip install llamatelemetry langchain-openai
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none
    llamatelemetry run -- python examples/langchain_chain.py
"""

import os
import textwrap

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from openai import OpenAI

from llamatelemetry import workflow

PROMPT = ChatPromptTemplate(
    [("system", "Answer in one short sentence."), ("user", "What is a {thing}?")]
)
Chain = Runnable[dict[str, str], str]


def first_model() -> str:
    """Return the model of the variable OPENAI_MODEL, or the first one of the server."""
    with OpenAI() as client:
        return os.environ.get("OPENAI_MODEL") or client.models.list().data[0].id


def show(kind: str, text: str) -> None:
    """Print an answer on one line."""
    print(f"{kind:<8} {textwrap.shorten(text, 68, placeholder=' ...')}", flush=True)


@workflow
def invoke(chain: Chain) -> None:
    """Run the chain once."""
    show("invoke", chain.invoke({"thing": "comet"}))


@workflow
def stream(chain: Chain) -> None:
    """Run the chain once, and receive the answer in pieces."""
    show("stream", "".join(chain.stream({"thing": "meteor"})))


@workflow
def batch(chain: Chain) -> None:
    """Run the chain for two inputs at the same time, in two threads."""
    for answer in chain.batch([{"thing": "nebula"}, {"thing": "pulsar"}]):
        show("batch", answer)


def main() -> None:
    """Create the chain and run it in three ways."""
    model = ChatOpenAI(model=first_model(), temperature=0, max_tokens=24)
    chain: Chain = PROMPT | model | StrOutputParser()
    invoke(chain)
    stream(chain)
    batch(chain)


if __name__ == "__main__":
    main()
