"""An OpenAI program whose calls meet known faults, for `scripts/test_why.py`.

    python scripts/_why_program.py URL SERVER_PID CORE SEED EPISODES TRUTH_FILE

Each episode is a new conversation: a first call, a second one, a control without a fault, and the
call with the fault. The truth goes to a file that `why` does not read: one JSON line per call.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

OUTPUT_TOKENS = 16
HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    pass
"""
WORDS = (
    *("river", "stone", "cloud", "amber", "forest", "window", "silver", "garden", "market"),
    *("winter", "engine", "letter", "copper", "valley", "summer", "bridge", "candle", "harbor"),
    *("meadow", "planet", "ribbon", "saddle", "thunder", "velvet", "walnut"),
)


class Conversation:
    """A growing conversation with tools."""

    def __init__(self, chance: random.Random, name: str, words: int = 30) -> None:
        self.chance = chance
        self.name = name
        self.system = f"You are {name}. Answer briefly. {self.text(words)}"
        self.tools = [
            {
                "type": "function",
                "function": {
                    "name": f"{kind}_{name}",
                    "description": self.text(4),
                    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
                },
            }
            for kind in ("search", "read", "write")
        ]
        self.messages: list[dict[str, Any]] = []

    def text(self, words: int) -> str:
        """Return random words."""
        return " ".join(self.chance.choices(WORDS, k=words)) + "."


@dataclass
class Target:
    """The call that meets the faults: its conversation, its options, and what runs beside it."""

    talk: Conversation
    options: dict[str, Any] = field(default_factory=dict)
    proxy_faults: list[str] = field(default_factory=list)
    beside: list[Awaitable[Any]] = field(default_factory=list)


class Program:
    """The calls, the faults, and the record of the truth."""

    def __init__(self, arguments: list[str]) -> None:
        self.url, pid, core, seed, self.episodes, truth = arguments
        self.server_pid, self.core = int(pid), int(core)
        self.chance = random.Random(int(seed))  # noqa: S311 - not for secrets
        self.truth = Path(truth)
        self.client = openai.AsyncOpenAI(base_url=self.url, api_key="none")
        self.traffic_may_run = asyncio.Event()
        self.traffic_may_run.set()
        self.conversations = 0

    def conversation(self, words: int = 30) -> Conversation:
        """Return a conversation that shares no text with another one."""
        self.conversations += 1
        name = "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=6))
        return Conversation(self.chance, f"{name}{self.conversations}", words)

    async def turn(
        self,
        talk: Conversation,
        *,
        words: int = 14,
        tokens: int = OUTPUT_TOKENS,
        fault: str = "",
        on_chunk: Callable[[int], Awaitable[None]] | None = None,
        client: openai.AsyncOpenAI | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Send the next question of a conversation. Return the id and the duration in ms."""
        talk.messages.append({"role": "user", "content": talk.text(words)})
        started = time.monotonic()
        before = core_times(self.core, self.server_pid)
        stream = await (client or self.client).chat.completions.create(
            model="m",
            messages=[{"role": "system", "content": talk.system}, *talk.messages],
            tools=talk.tools,
            tool_choice="none",
            stream=True,
            max_tokens=tokens,
            temperature=0,
            extra_headers={"x-fault": fault} if fault else None,
            extra_body={"ignore_eos": True, **more},
        )
        answer, identifier, number = "", "", 0
        async for chunk in stream:
            number += 1
            identifier = chunk.id
            if chunk.choices:
                answer += chunk.choices[0].delta.content or ""
            if on_chunk is not None:
                await on_chunk(number)
        talk.messages.append({"role": "assistant", "content": answer})
        return {
            "id": identifier,
            "ms": 1000 * (time.monotonic() - started),
            "others_cpu_ms": core_times(self.core, self.server_pid) - before,
        }

    async def episode(self, faults: list[str], *, traffic: bool) -> None:
        """Run one conversation that ends with a call with faults."""
        talk = self.conversation()
        await self.turn(talk, words=40)
        control = await self.turn(talk)
        found = await self.faulty_turn(talk, faults)
        pair = {"control": control, "faults": faults, "traffic": traffic}
        with self.truth.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**found, **pair}) + "\n")

    async def faulty_turn(self, talk: Conversation, faults: list[str]) -> dict[str, Any]:
        """Send a question while the faults are in place."""
        target = Target(talk)
        for fault in faults:
            if fault != "none":
                await getattr(self, fault)(target)
        beside = [asyncio.ensure_future(each) for each in target.beside]
        try:
            return await self.turn(
                target.talk, fault=",".join(target.proxy_faults), **target.options
            )
        finally:
            await asyncio.gather(*beside)
            self.traffic_may_run.set()

    # The faults. Each changes the conversation or the options of `turn`, or runs something beside it.

    async def queue(self, target: Target) -> None:
        """Fill both slots before the call."""
        others = [self.conversation(40) for _ in range(2)]
        asked = [asyncio.ensure_future(self.turn(other, tokens=60)) for other in others]
        target.beside += asked
        await asyncio.sleep(0.25)

    async def time_stamp(self, target: Target) -> None:
        """Put a time in front of the system prompt."""
        target.talk.system = f"It is {time.time_ns()}. {target.talk.system}"

    async def tools_reordered(self, target: Target) -> None:
        """Rotate the tools."""
        target.talk.tools = [*target.talk.tools[1:], target.talk.tools[0]]

    async def history_edited(self, target: Target) -> None:
        """Change the first question."""
        target.talk.messages[0] = {
            "role": "user",
            "content": "Edited: " + target.talk.messages[0]["content"],
        }

    async def evicted(self, target: Target) -> None:  # noqa: ARG002 - called as the others are
        """Use both slots for other prompts."""
        for _ in range(2):
            others = [self.conversation(40) for _ in range(2)]
            await asyncio.gather(*(self.turn(other, tokens=4) for other in others))

    async def cache_off(self, target: Target) -> None:
        """Switch the cache of the server off."""
        target.options["cache_prompt"] = False

    async def cold(self, target: Target) -> None:
        """Send the first prompt of another conversation."""
        target.talk = self.conversation()

    async def others_prompt(self, target: Target) -> None:
        """Start a long prompt of another conversation in the middle of the decode."""
        self.traffic_may_run.clear()
        await asyncio.sleep(0.6)
        other = self.conversation(120)
        started = asyncio.Event()

        async def start(number: int) -> None:
            if number == 6:
                started.set()
                await asyncio.sleep(0)

        async def ask() -> None:
            await started.wait()
            await self.turn(other, tokens=2)

        target.options |= {"on_chunk": start, "tokens": 40}
        target.beside.append(ask())

    async def loop_blocked(self, target: Target) -> None:
        """Block the event loop from near the end of the response to after it."""

        async def block(number: int) -> None:
            if number == OUTPUT_TOKENS - 4:
                time.sleep(0.9)  # noqa: ASYNC251 - the fault

        target.options["on_chunk"] = block

    async def slow_reader(self, target: Target) -> None:
        """Take 40 ms for each chunk."""

        async def wait(_number: int) -> None:
            await asyncio.sleep(0.04)

        target.options["on_chunk"] = wait

    async def network_delay(self, target: Target) -> None:
        """Forward the request 0.9 s later."""
        target.proxy_faults.append("delay=900")

    async def network_stall(self, target: Target) -> None:
        """Hold the end of the response back."""
        target.proxy_faults.append(f"stall={OUTPUT_TOKENS - 4}:900")

    async def server_frozen(self, target: Target) -> None:
        """Stop the server process for 0.9 s."""

        async def freeze() -> None:
            await asyncio.sleep(self.chance.uniform(0.03, 0.25))
            os.kill(self.server_pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(0.9)
            finally:
                os.kill(self.server_pid, signal.SIGCONT)

        target.beside.append(freeze())

    async def retry(self, target: Target) -> None:
        """Reject the first attempt."""
        target.proxy_faults.append(f"fail={time.time_ns()}")

    async def slow_lookup(self, target: Target) -> None:
        """Look the name of the server up in 0.9 s, on a new connection."""
        url = self.url.replace("127.0.0.1", "localhost")
        target.options["client"] = openai.AsyncOpenAI(base_url=url, api_key="none")
        original = socket.getaddrinfo

        def slow(host: Any, *arguments: Any, **more: Any) -> Any:
            if host in {"localhost", b"localhost"}:  # other calls use the address
                socket.getaddrinfo = original
                time.sleep(0.9)
            return original(host, *arguments, **more)

        socket.getaddrinfo = slow

    async def cpu_hog(self, target: Target) -> None:
        """Run another program on the core of the server, for as long as the call takes."""

        async def hog() -> None:
            command = [sys.executable, "-S", "-E", "-c", HOG, str(self.core), "1.2"]
            process = await asyncio.create_subprocess_exec(*command, env={})
            await process.wait()

        target.beside.append(hog())

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Run another conversation beside the episode."""
        task = asyncio.ensure_future(self._traffic())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _traffic(self) -> None:
        while True:
            talk = self.conversation(30)
            for _ in range(4):
                await self.traffic_may_run.wait()
                await self.turn(talk, tokens=12)
                await asyncio.sleep(self.chance.uniform(0.05, 0.4))

    async def run(self) -> None:
        """Run all episodes in a random order, half of them with other traffic."""
        plan = json.loads(self.episodes)
        self.chance.shuffle(plan)
        for faults, traffic in plan:
            if traffic:
                async with self.traffic():
                    await self.episode(faults, traffic=True)
            else:
                await self.episode(faults, traffic=False)


def core_times(core: int, pid: int) -> float:
    """Return the CPU time in ms that processes other than the server used on a core."""
    ticks = 1000 / os.sysconf("SC_CLK_TCK")
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    fields = next(line.split() for line in lines if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, irq, soft, *stolen = map(int, fields[1:])
    own = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    busy = user + nice + system + irq + soft + (stolen[0] if stolen else 0)
    return ticks * (busy - int(own[11]) - int(own[12]))


if __name__ == "__main__":
    asyncio.run(Program(sys.argv[1:]).run())
