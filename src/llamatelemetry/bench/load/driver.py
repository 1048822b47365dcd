"""Send the requests of one run at their scheduled times, on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.bench.targets.observation import Observation, RequestPosition
from llamatelemetry.bench.targets.target import BenchRequest
from llamatelemetry.genai import Request, model_name, parse_parameters
from llamatelemetry.semconv.operations import CHAT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from llamatelemetry.bench.load.prompts import Conversation, Message
    from llamatelemetry.bench.load.schedule import Load
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.targets.target import BenchmarkTarget
    from llamatelemetry.genai import Instrumenter

# asyncio timers have a resolution of 1 ms and fire up to 1 ms late. The driver polls the clock
# during the last stretch before a scheduled time.
_POLLING_NS: Final = 1_500_000


class ScheduledConversation(NamedTuple):
    """A conversation of a run.

    `prompt` is its position in the list of conversations, and `first_index` the index of its
    first request within the run. `due_s` is the scheduled time of that request, in seconds from
    the start of the run.
    """

    prompt: int
    turns: int
    due_s: float
    first_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests of one run and their options."""

    run: int
    model: str
    conversations: Sequence[Conversation]
    schedule: Sequence[ScheduledConversation]
    load: Load
    max_tokens: int
    cold: bool
    seed: int
    keep_prompts: bool = False


class Driver:
    """Runs the conversations of a plan. `records` has the finished requests, even if canceled."""

    def __init__(
        self,
        target: BenchmarkTarget,
        plan: Plan,
        instrumenter: Instrumenter,
        on_record: Callable[[RequestRecord], None] = lambda _record: None,
    ) -> None:
        self._target = target
        self._plan = plan
        self._instrumenter = instrumenter
        limit = plan.load.max_in_flight
        self._in_flight = nullcontext() if limit is None else asyncio.Semaphore(limit)
        self._on_record = on_record
        self._started_ns = 0
        self.records: list[RequestRecord] = []

    async def run(self) -> None:
        """Run all conversations."""
        plan = self._plan
        self._started_ns = perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            if plan.load.is_open:
                for scheduled in plan.schedule:
                    due_ns = self._started_ns + round(scheduled.due_s * 1e9)
                    await _sleep_until(due_ns)
                    group.create_task(self._run_conversation(scheduled, due_ns))
                return
            # The workers share one iterator: each takes the next conversation when it is idle.
            pending = iter(plan.schedule)
            for _ in range(min(plan.load.concurrency, len(plan.schedule))):
                group.create_task(self._work(pending))

    async def _work(self, pending: Iterator[ScheduledConversation]) -> None:
        for scheduled in pending:
            await self._run_conversation(scheduled, perf_counter_ns())

    async def _run_conversation(self, scheduled: ScheduledConversation, due_ns: int) -> None:
        conversation = self._plan.conversations[scheduled.prompt]
        history: list[Message] = []
        for turn in range(scheduled.turns):
            history.extend(conversation.turns[turn])
            index = scheduled.first_index + turn
            position = RequestPosition(
                self._plan.run, index, scheduled.prompt, turn, due_ns, self._started_ns
            )
            observation = await self._send(position, history, conversation)
            if observation.record is None or not observation.record.ok:
                # Without this response the next turns would not be the planned conversation.
                return
            history.append({"role": "assistant", "content": observation.text})
            due_ns = perf_counter_ns()

    async def _send(
        self, position: RequestPosition, history: list[Message], conversation: Conversation
    ) -> Observation:
        plan = self._plan
        request = BenchRequest(
            model=plan.model,
            messages=self._messages(history),
            max_tokens=conversation.max_tokens or plan.max_tokens,
            seed=plan.seed,
            cold=plan.cold,
        )
        observation = Observation(self._instrumenter, self._span_request(request), position)
        async with self._in_flight:
            await self._observe(request, observation)
        if observation.record is not None:
            if plan.keep_prompts:
                text = _text_of(history[-1])
                observation.record = replace(observation.record, prompt_text=text)
            self.records.append(observation.record)
            self._on_record(observation.record)
        return observation

    async def _observe(self, request: BenchRequest, observation: Observation) -> None:
        if self._target.is_blocking:

            def send() -> None:
                with observation:
                    self._target.send(request, observation)

            await _run_in_thread(send)
        else:
            with observation:
                await self._target.send(request, observation)

    def _span_request(self, request: BenchRequest) -> Request:
        target = self._target
        return Request(
            operation=CHAT,
            provider=target.provider,
            model=model_name(request.model),
            server=target.server,
            stream=target.is_streaming,
            has_queue=target.has_queue,
            parameters=parse_parameters(
                {"max_tokens": request.max_tokens, "temperature": 0.0, "seed": request.seed}
            ),
        )

    def _messages(self, history: list[Message]) -> list[Message]:
        is_remote = self._target.server is not None
        if not self._plan.cold or not is_remote or self._target.facts.skips_cache:
            return list(history)
        # This server has no switch for its prompt cache. A random prefix makes every prompt
        # unique from its first token, so that no prefix can be reused.
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
    remaining_ns = due_ns - perf_counter_ns()
    if remaining_ns > _POLLING_NS:
        await asyncio.sleep((remaining_ns - _POLLING_NS) / 1e9)
    while perf_counter_ns() < due_ns:  # noqa: ASYNC110 - no event fires when the clock gets there
        await asyncio.sleep(0)


async def _run_in_thread(work: Callable[[], None]) -> None:
    """Run a blocking function in a daemon thread, so that an interrupted run need not wait for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    context = contextvars.copy_context()

    def finish(error: BaseException | None) -> None:
        if not done.cancelled():
            done.set_exception(error) if error else done.set_result(None)

    def run() -> None:
        failure: BaseException | None = None
        try:
            context.run(work)
        except BaseException as error:
            failure = error
        # An interrupted run has closed its loop by now, which raises RuntimeError.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, failure)

    threading.Thread(target=run, name="llamatelemetry-bench-request", daemon=True).start()
    await done


class LoopThread:
    """An event loop in its own thread. A notebook already runs a loop in its main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run_loop, name="llamatelemetry-bench", daemon=True
        )

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run_loop(self) -> None:
        self._loop.run_forever()
        # In this thread, because the caller's thread may run a loop of its own.
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the caller's context and return its result.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed. The coroutine was canceled and has ended.
        """
        context = contextvars.copy_context()
        ended = threading.Event()
        tasks: list[asyncio.Task[Any]] = []

        def start() -> None:
            task = self._loop.create_task(coroutine, context=context)
            tasks.append(task)
            task.add_done_callback(lambda _: ended.set())

        self._loop.call_soon_threadsafe(start)
        try:
            while not ended.wait(0.2):
                pass
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            ended.wait()
            raise
        return tasks[0].result()
