"""Sending the requests of one run at their times, on an event loop of their own."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.bench._observation import Observation, Place
from llamatelemetry.bench._targets import Question
from llamatelemetry.genai import Request, model_name, parse_parameters
from llamatelemetry.semconv.operations import CHAT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamatelemetry.bench._targets import Target
    from llamatelemetry.bench.load import Load
    from llamatelemetry.bench.prompts import Conversation, Message
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.genai import Instrumenter

# An event loop wakes up to a millisecond late: it waits in whole ones. The last stretch before
# a request is due is spent looking at the clock instead.
_WATCHFUL_NS: Final = 1_500_000


class Talk(NamedTuple):
    """A conversation to hold: its number and turns, when it is due, the number of its first request."""

    prompt: int
    turns: int
    due_s: float
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run is to do."""

    run: int
    model: str
    conversations: Sequence[Conversation]
    talks: Sequence[Talk]
    load: Load
    max_tokens: int
    cold: bool
    seed: int
    keep_prompts: bool = False


@dataclass(slots=True)
class Progress:
    """What has come of a run so far."""

    records: list[RequestRecord] = field(default_factory=list["RequestRecord"])
    started_ns: int = 0
    on_record: Callable[[RequestRecord], None] = lambda _record: None

    def add(self, record: RequestRecord) -> None:
        """Take in a request that has ended."""
        self.records.append(record)
        self.on_record(record)


class Driver:
    """Holds the conversations of a plan with a target."""

    def __init__(self, target: Target, plan: Plan, instrumenter: Instrumenter) -> None:
        self._target = target
        self._plan = plan
        self._instrumenter = instrumenter
        limit = plan.load.most_in_flight
        self._room = None if limit is None else asyncio.Semaphore(limit)
        self.progress = Progress()

    async def run(self) -> None:
        """Hold all conversations; what was measured is in `progress`, also after a cancellation."""
        self.progress.started_ns = perf_counter_ns()
        if self._plan.load.is_open:
            await self._at_their_times()
        else:
            await self._one_after_the_other()

    async def _one_after_the_other(self) -> None:
        talks = iter(self._plan.talks)
        hands = min(self._plan.load.concurrency, len(self._plan.talks))
        async with asyncio.TaskGroup() as group:
            for _ in range(hands):
                group.create_task(self._work_through(talks))

    async def _work_through(self, talks: Iterator[Talk]) -> None:
        for talk in talks:  # shared: whoever is free takes the next
            await self._hold(talk, perf_counter_ns())

    async def _at_their_times(self) -> None:
        async with asyncio.TaskGroup() as group:
            for talk in self._plan.talks:
                due_ns = self.progress.started_ns + round(talk.due_s * 1e9)
                await _sleep_until(due_ns)
                group.create_task(self._hold(talk, due_ns))

    async def _hold(self, talk: Talk, due_ns: int) -> None:
        conversation = self._plan.conversations[talk.prompt]
        history: list[Message] = []
        for turn in range(talk.turns):
            history.extend(conversation.turns[turn])
            place = Place(
                self._plan.run,
                talk.first + turn,
                talk.prompt,
                turn,
                due_ns,
                self.progress.started_ns,
            )
            seen = await self._ask(place, history, conversation, turn + 1 < talk.turns)
            if seen.record is None or not seen.record.ok:
                return  # what follows would not be the conversation that was planned
            history.append({"role": "assistant", "content": seen.text})
            due_ns = perf_counter_ns()

    async def _ask(
        self, place: Place, history: list[Message], conversation: Conversation, keep_text: bool
    ) -> Observation:
        plan = self._plan
        question = Question(
            model=plan.model,
            messages=self._messages(history),
            max_tokens=conversation.max_tokens or plan.max_tokens,
            seed=plan.seed,
            cold=plan.cold,
        )
        seen = Observation(self._instrumenter, self._request(question), place, keep_text=keep_text)
        if self._room is None:
            await self._make(question, seen)
        else:
            async with self._room:
                await self._make(question, seen)
        if seen.record is not None:
            if plan.keep_prompts:
                seen.record = replace(seen.record, prompt_text=_text_of(history[-1]))
            self.progress.add(seen.record)
        return seen

    async def _make(self, question: Question, seen: Observation) -> None:
        if self._target.is_blocking:

            def work() -> None:
                with seen:
                    self._target.ask(question, seen)

            await _in_thread(work)
        else:
            with seen:
                await self._target.ask(question, seen)

    def _request(self, question: Question) -> Request:
        target = self._target
        return Request(
            operation=CHAT,
            provider=target.provider,
            model=model_name(question.model),
            server=target.server,
            stream=target.is_streaming,
            has_queue=target.has_queue,
            parameters=parse_parameters(
                {"max_tokens": question.max_tokens, "temperature": 0.0, "seed": question.seed}
            ),
        )

    def _messages(self, history: list[Message]) -> list[Message]:
        is_remote = self._target.server is not None
        if not self._plan.cold or not is_remote or self._target.facts.skips_cache:
            return list(history)
        # No two prompts begin alike: nothing of one can come from the cache of another.
        return [_prefixed(history[0], f"[{secrets.token_hex(4)}] "), *history[1:]]


def _prefixed(message: Message, prefix: str) -> Message:
    content: Any = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": prefix}, *content]}
    return {**message, "content": f"{prefix}{content}"}


def _text_of(message: Message) -> str:
    content: Any = message.get("content")
    return content if isinstance(content, str) else ""


async def _sleep_until(due_ns: int) -> None:
    left_ns = due_ns - perf_counter_ns()
    if left_ns > _WATCHFUL_NS:
        await asyncio.sleep((left_ns - _WATCHFUL_NS) / 1e9)
    while perf_counter_ns() < due_ns:  # noqa: ASYNC110 - it is the clock that is waited for
        await asyncio.sleep(0)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run what blocks in a thread that nobody has to wait for, should the run be broken off."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    context = contextvars.copy_context()

    def finish(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            context.run(work)
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: the run was broken off
            loop.call_soon_threadsafe(finish, failure)

    threading.Thread(target=run, name="llamatelemetry-bench-request", daemon=True).start()
    await done
