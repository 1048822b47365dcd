"""A stream that is still open when the program ends is recorded with what has arrived."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.model_server import model_server
from tests.support.otlp_receiver import Received, http_receiver
from tests.support.selection import slow_except

ROOT = Path(__file__).parents[3]

HEAD = """
    import asyncio, gc, os, signal, sys
    import llamatelemetry, openai
    llamatelemetry.init()
    MESSAGES = [{"role": "user", "content": "Hi"}]
    OPTIONS = {"model": "smol", "messages": MESSAGES, "stream": True}
"""
# Each leaves an open stream in a global variable `stream`.
STREAMS = {
    "sync": """
        stream = openai.OpenAI().chat.completions.create(**OPTIONS)
        next(iter(stream))
    """,
    "unread": """
        stream = openai.OpenAI().chat.completions.create(**OPTIONS)
    """,
    "raw bytes": """
        client = openai.OpenAI().chat.completions.with_streaming_response
        context = client.create(**OPTIONS)
        lines = context.__enter__().iter_lines()
        stream = [context, lines, next(lines)]
        del context, lines
    """,
    "async": """
        async def main():
            global stream
            client = openai.AsyncOpenAI()
            stream = await client.chat.completions.create(**OPTIONS)
            await anext(aiter(stream))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "generator of a workflow": """
        @llamatelemetry.workflow("chat smol")
        def pieces():
            yield 1
            yield 2
        stream = pieces()
        next(stream)
    """,
}
ENDS = {
    "exit": ("", 0),
    "error": ("sys.excepthook = lambda *_: None; raise ValueError", 1),
    "shutdown": ("assert llamatelemetry.shutdown(30); os._exit(0)", 0),
    "signal": ("signal.raise_signal(signal.SIGTERM)", -15),
}
ABANDONED = "del stream; gc.collect(); assert llamatelemetry.flush(30); os._exit(0)"


def run(stream: str, end: str, model: str, received: Received, **variables: str) -> int:
    program = "\n".join(map(textwrap.dedent, (HEAD, STREAMS.get(stream, stream), end)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **os.environ,
            "OPENAI_BASE_URL": model,
            "OPENAI_API_KEY": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    # At the end of the interpreter, the HTTP client prints errors of its own, with the frames of
    # the patched functions.
    lines = [line for line in done.stderr.splitlines() if not line.lstrip().startswith("File ")]
    assert not any("llamatelemetry" in line for line in lines), done.stderr
    return done.returncode


def recorded(received: Received) -> list[dict[str, str]]:
    """Return the attributes of the spans of calls, without ids and times."""
    return [
        {
            each.key: str(each.value)
            for each in span.attributes
            if "time" not in each.key and "port" not in each.key
        }
        for message in received.messages["traces"]
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if "POST" not in span.name
    ]


@pytest.fixture(scope="module")
def model():
    with model_server() as url:
        yield url


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(each, marks=[] if each == "exit" else pytest.mark.slow)
        for each in ENDS
        if sys.platform != "win32" or each != "signal"
    ],
)
@pytest.mark.parametrize("stream", slow_except({"sync", "generator of a workflow"}, STREAMS))
def test_open_stream_is_recorded_like_an_abandoned_one_at_the_end(stream, end, model):
    code, status = ENDS[end]
    with http_receiver() as abandoned, http_receiver() as received:
        # An event loop that has stopped keeps an abandoned stream alive.
        similar = "sync" if stream == "async" else stream
        assert run(similar, ABANDONED, model, abandoned) == 0
        assert run(stream, code, model, received) == status
        assert len(recorded(received)) == 1
        assert recorded(received) == recorded(abandoned)
        assert abandoned.metrics() <= received.metrics()


def test_flush_leaves_stream_open(model):
    with http_receiver() as received:
        end = """
            assert llamatelemetry.flush(30)
            assert list(stream)
        """
        assert run("sync", end, model, received) == 0
        (attributes,) = recorded(received)
        assert "gen_ai.response.model" in attributes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_leaves_stream_of_its_parent_open(model):
    with http_receiver() as received:
        end = """
            if os.fork() == 0:
                assert llamatelemetry.shutdown(30)
                os._exit(0)
            assert os.wait()[1] == 0
            assert len(list(stream)) == 2
        """
        assert run("sync", end, model, received) == 0
        assert len(recorded(received)) == 1
