"""A server that takes its delays from the prompt and logs its own timestamps.

A prompt is a `Script` as JSON. The server runs in a process of its own. It logs timestamps of the
system's monotonic clock, which the client under test reads as well.

    python scripted.py TRUTH-FILE [--owner NAME] [--slots N] [--serial] [--pace X] [--drift X --since NS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import Any


@dataclass
class Script:
    """Delays in seconds, and faults, for one request."""

    id: int = 0
    queue_s: float = 0.0
    first_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    reasoning: int = 0
    noise: bool = False
    status: int = 200
    fault: str = ""
    timings: bool = True
    work_s: float = 0.0

    def text(self) -> str:
        return json.dumps(asdict(self))

    @property
    def tokens(self) -> int:
        return len(self.gaps_s) + 1


@dataclass
class Truth:
    """Timestamps of one request, by the server's clock."""

    id: int
    received_ns: int
    headers_ns: int
    token_ns: list[int]
    ended_ns: int
    body: dict[str, Any]

    @property
    def queue_s(self) -> float:
        return (self.headers_ns - self.received_ns) / 1e9

    @property
    def ttft_s(self) -> float:
        return (self.token_ns[0] - self.received_ns) / 1e9

    @property
    def e2e_s(self) -> float:
        return (self.ended_ns - self.received_ns) / 1e9

    @property
    def gaps_s(self) -> list[float]:
        return [(later - earlier) / 1e9 for earlier, later in pairwise(self.token_ns)]


@dataclass
class ScriptedServer:
    """A running scripted server."""

    url: str
    _truth: Path

    def truths(self) -> list[Truth]:
        """Return the log so far, in the order of arrival."""
        lines = self._truth.read_text().splitlines()
        return sorted((Truth(**json.loads(line)) for line in lines), key=lambda t: t.received_ns)


@contextmanager
def scripted_server(folder: Path, *arguments: str) -> Iterator[ScriptedServer]:
    truth = folder / "truth.jsonl"
    truth.touch()
    command = [sys.executable, __file__, str(truth), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield ScriptedServer(f"http://127.0.0.1:{port}", truth)
        finally:
            process.kill()


class _Served:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.truth = Path(options.truth).open("a")  # noqa: SIM115 - until the process is killed
        self.turn = asyncio.Semaphore(1) if options.serial else None
        self.metrics_answers = self.responses = 0
        self.counters = {"prompt_tokens_total": 0, "tokens_predicted_total": 0}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read_request(reader):
                await self.answer(*request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        received_ns = perf_counter_ns()
        if path.endswith("/chat/completions"):
            if self.turn is None:
                await self.chat(body, received_ns, writer)
            else:
                async with self.turn:
                    await self.chat(body, received_ns, writer)
            return
        owner = self.options.owner
        known: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "scripted", "owned_by": owner, "meta": {}}]},
            "/props": {"build_info": "b1-test", "total_slots": self.options.slots},
            "/health": {"status": "ok"},
        }
        if path == "/metrics":
            self.metrics_answers += 1
            if self.metrics_answers > self.options.metrics_answers:
                await asyncio.sleep(3600)
            lines = [f"llamacpp:{name} {value}" for name, value in self.counters.items()]
            await _plain(writer, 200, "\n".join(lines), "text/plain")
        elif path in known:
            await _plain(writer, 200, json.dumps(known[path]))
        else:
            await _plain(writer, 404, "{}")

    def slowed(self, script: Script) -> Script:
        """Return the script with delays scaled by the pace and drift of this server."""
        running_s = (perf_counter_ns() - self.options.since) / 1e9
        factor = self.options.pace * (1 + self.options.drift * running_s)
        return replace(
            script,
            queue_s=factor * script.queue_s,
            first_s=factor * script.first_s,
            gaps_s=[factor * gap_s for gap_s in script.gaps_s],
        )

    async def chat(self, body: Any, received_ns: int, writer: asyncio.StreamWriter) -> None:
        content = str(body["messages"][-1]["content"])
        script = self.slowed(Script(**json.loads(content[content.index("{") :])))
        await asyncio.sleep(script.work_s)
        await asyncio.sleep(script.queue_s)
        if script.status != 200:
            error = {"code": script.status, "message": "no", "type": "server_error"}
            await _plain(writer, script.status, json.dumps({"error": error}))
            return
        if script.fault == "reset":
            writer.transport.abort()
            return
        headers = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        writer.write(f"{headers}Transfer-Encoding: chunked\r\n\r\n".encode())
        await writer.drain()
        headers_ns = perf_counter_ns()
        token_ns = [at async for at in self.tokens(script, writer)]
        if script.fault != "truncated":
            usage = {"prompt_tokens": 7, "completion_tokens": script.tokens, "total_tokens": 0}
            last: dict[str, Any] = {"choices": [], "usage": usage}
            if script.timings:
                last["timings"] = _timings(script)
                self.counters["prompt_tokens_total"] += 7
                self.counters["tokens_predicted_total"] += script.tokens
            await _event(writer, _choice({}, "length"))
            await _event(writer, last)
            await _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        ended_ns = perf_counter_ns()
        await writer.drain()
        truth = Truth(script.id, received_ns, headers_ns, token_ns, ended_ns, body)
        self.truth.write(json.dumps(asdict(truth)) + "\n")
        self.truth.flush()
        self.responses += 1
        if self.responses == self.options.crashes_after:
            os._exit(1)

    async def tokens(self, script: Script, writer: asyncio.StreamWriter) -> Any:
        if script.noise:  # chunks without tokens
            await _event(writer, _choice({"role": "assistant", "content": None}))
            await _chunk(writer, b":\n\n")
            await _event(writer, _choice({"content": ""}))
        for number, gap_s in enumerate([script.first_s, *script.gaps_s]):
            await asyncio.sleep(gap_s)
            if script.fault == "error event" and number == 1:
                await _event(writer, {"error": {"code": 500, "type": "scripted_fault"}})
                return
            if script.fault == "truncated" and number == 1:
                return
            kind = "reasoning_content" if number < script.reasoning else "content"
            at = perf_counter_ns()
            await _event(writer, _choice({kind: "word "}))
            yield at


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "x", "model": "scripted", "object": "chat.completion.chunk", "choices": [choice]}


def _timings(script: Script) -> dict[str, Any]:
    return {
        "cache_n": 0,
        "prompt_n": 7,
        "prompt_ms": script.first_s * 1000,
        "predicted_n": script.tokens,
        "predicted_ms": sum(script.gaps_s) * 1000,
    }


async def _event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    await _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _plain(
    writer: asyncio.StreamWriter, status: int, text: str, kind: str = "application/json"
) -> None:
    data = text.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, Any] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (
            int(line.split(":")[1])
            for line in head.lower().split("\r\n")
            if "content-length" in line
        ),
        0,
    )
    body = await reader.readexactly(length)
    return head.split()[1], json.loads(body) if body else None


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("truth")
    parser.add_argument("--owner", default="llamacpp")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--serial", action="store_true")
    parser.add_argument("--pace", type=float, default=1.0, help="factor of all delays")
    parser.add_argument(
        "--drift", type=float, default=0.0, help="growth of all delays per second, as a fraction"
    )
    parser.add_argument(
        "--since", type=int, default=0, help="start of the drift, in ns of perf_counter"
    )
    parser.add_argument(
        "--metrics-answers",
        type=float,
        default=math.inf,
        help="number of /metrics responses before it hangs",
    )
    parser.add_argument("--crashes-after", type=int, help="number of responses before it exits")
    served = _Served(parser.parse_args())
    server = await asyncio.start_server(served.connection, "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
