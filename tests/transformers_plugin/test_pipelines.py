"""Pipelines of every text task: one span per call, for every kind of input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from opentelemetry.trace import SpanKind, StatusCode
from transformers.pipelines.pt_utils import KeyDataset

from tests.support.recorder import Recorder
from tests.support.transformers_models import IS_V5, SOUND, make_pipeline, tokenizer
from tests.transformers_plugin.conftest import calls, only


class Task(NamedTuple):
    """A task with an input, and its operation under strict operation names."""

    name: str
    operation: str | None
    input: Any
    kwargs: Mapping[str, Any] = MappingProxyType({})
    generates: bool = False
    only_v4: bool = False


LABELS = {"candidate_labels": ["good", "bad"]}
GENERATE = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
TASKS = [
    Task("text-generation", "text_completion", "Hello there", GENERATE, generates=True),
    Task("text2text-generation", "text_completion", "Hello", GENERATE, True, only_v4=True),
    Task("summarization", "text_completion", "Hello", {**GENERATE, "min_length": 0}, True, True),
    Task("translation", "text_completion", "Hello", GENERATE, True, only_v4=True),
    Task("feature-extraction", "embeddings", "Hello there"),
    Task("fill-mask", None, "Hello [MASK]"),
    Task("text-classification", None, "Hello there"),
    Task("token-classification", None, "Hello there"),
    Task("zero-shot-classification", None, "Hello there", LABELS),
    Task(
        "question-answering",
        None,
        {"question": "Who?", "context": "I am the walrus."},
        only_v4=True,
    ),
    Task("automatic-speech-recognition", "generate_content", SOUND),
]
AVAILABLE = [task for task in TASKS if not (task.only_v4 and IS_V5)]
tasks = pytest.mark.parametrize("task", AVAILABLE, ids=lambda task: task.name)
# Warnings of question answering in transformers 4: question and context are one input here, and it
# uses an interface that numpy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Passing a list of SQuAD examples"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


@tasks
def test_pipeline_records_one_span_for_single_input(
    instrumented: Recorder, tmp_path: Path, task: Task
) -> None:
    pipe = make_pipeline(task.name, tmp_path)
    pipe(task.input, **task.kwargs)
    span = only(instrumented)
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    assert span.name == (task.operation or task.name)
    assert span.attributes.get("gen_ai.operation.name") == task.operation
    assert span.attributes["gen_ai.provider.name"] == "huggingface"
    assert span.attributes["llamatelemetry.task"] == task.name
    assert not {"server.address", "gen_ai.input.messages"} & set(span.attributes)
    assert bool(instrumented.points("gen_ai.client.operation.duration")) == bool(task.operation)
    assert ("gen_ai.usage.output_tokens" in span.attributes) == task.generates
    if task.name in {"text-generation", "text-classification", "feature-extraction"}:
        assert span.attributes["gen_ai.usage.input_tokens"] == len(
            tokenizer()(task.input).input_ids
        )
    if task.generates:
        assert set(instrumented.phases(span)) == {"prefill", "decode"}
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
        assert span.attributes["gen_ai.request.max_tokens"] == 5
    else:
        assert instrumented.phases(span) == {}


@tasks
def test_pipeline_records_one_span_with_counts_per_item_for_list(
    instrumented: Recorder, tmp_path: Path, task: Task
) -> None:
    pipe = make_pipeline(task.name, tmp_path)
    outputs = pipe([task.input, task.input], batch_size=2, **task.kwargs)
    assert len(outputs) == 2
    span = only(instrumented)
    if task.generates:
        (inputs,) = {*span.attributes["llamatelemetry.batch.input_tokens"]}
        assert span.attributes["llamatelemetry.batch.size"] == 2
        assert span.attributes["llamatelemetry.batch.output_tokens"] == (5, 5)
        assert span.attributes["gen_ai.usage.input_tokens"] == 2 * inputs
        assert span.attributes["gen_ai.usage.output_tokens"] == 10
        assert span.attributes["gen_ai.response.finish_reasons"] == ("length", "length")
        assert set(instrumented.phases(span)) == {"prefill", "decode"}
    if task.name == "feature-extraction":
        assert span.attributes["gen_ai.embeddings.dimension.count"] == 32


@tasks
def test_pipeline_records_one_span_per_pull_and_reads_nothing_ahead(
    instrumented: Recorder, tmp_path: Path, task: Task
) -> None:
    pipe = make_pipeline(task.name, tmp_path)
    taken: list[int] = []

    def inputs() -> Any:
        for index in range(3):
            taken.append(index)
            yield task.input

    if task.name == "question-answering":
        pytest.skip("this pipeline converts its inputs to a list")
    if task.name == "zero-shot-classification":
        pytest.skip("this pipeline treats a generator as one text")
    outputs = pipe(inputs(), **task.kwargs)
    assert calls(instrumented) == []
    iterator = iter(outputs)
    ahead = len(taken)
    next(iterator)
    # Version 5 reads the first item to check whether it is a message.
    assert len(taken) <= max(ahead, 1) + 1
    assert len(calls(instrumented)) == 1
    assert len(list(iterator)) == 2
    spans = calls(instrumented)
    assert len(spans) == 3
    assert {span.name for span in spans} == {task.operation or task.name}
    if task.generates:
        assert [span.attributes["gen_ai.usage.output_tokens"] for span in spans] == [5, 5, 5]


@tasks
def test_pipeline_records_and_raises_error_of_library(
    instrument: Callable[..., Recorder], tmp_path: Path, task: Task
) -> None:
    pipe = make_pipeline(task.name, tmp_path)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("weights")

    pipe.model.forward = broken
    with pytest.raises(KeyError) as bare:
        pipe(task.input, **task.kwargs)
    recorder = instrument()
    with pytest.raises(KeyError) as raised:
        pipe(task.input, **task.kwargs)
    assert raised.value.args == bare.value.args
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None
    span = only(recorder)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "KeyError"
    assert "gen_ai.usage.output_tokens" not in span.attributes


def test_pipeline_records_messages_as_chat(instrumented: Recorder, tmp_path: Path) -> None:
    pipe = make_pipeline("text-generation", tmp_path)
    messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}]
    (output,) = pipe(messages, max_new_tokens=4, do_sample=False)
    span = only(instrumented)
    assert output["generated_text"][-1]["role"] == "assistant"
    assert span.attributes["gen_ai.operation.name"] == "chat"
    prompt = tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, tokenize=True
    )
    assert span.attributes["gen_ai.usage.input_tokens"] == len(prompt["input_ids"])


def test_pipeline_records_list_and_generator_of_chats(
    instrumented: Recorder, tmp_path: Path
) -> None:
    pipe = make_pipeline("text-generation", tmp_path)
    chat = [{"role": "user", "content": "Hi"}]
    pipe([chat, chat], max_new_tokens=2, do_sample=False)
    span = only(instrumented)
    assert span.name == "chat"
    assert span.attributes["llamatelemetry.batch.size"] == 2
    instrumented.clear_spans()
    if IS_V5:
        assert (
            len(list(pipe((each for each in [chat, chat]), max_new_tokens=2, do_sample=False))) == 2
        )
        assert [span.name for span in calls(instrumented)] == ["chat", "chat"]


class Texts(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Dataset that records which rows were read."""

    def __init__(self) -> None:
        self.rows = [{"text": "one"}, {"text": "four"}, {"text": "fifteen"}]
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.rows[index]


def test_pipeline_records_one_span_per_batch_of_dataset(
    instrumented: Recorder, tmp_path: Path
) -> None:
    pipe = make_pipeline("text-generation", tmp_path)
    texts = Texts()
    outputs = pipe(KeyDataset(texts, "text"), batch_size=2, max_new_tokens=3, do_sample=False)
    # The proxy has the other methods of the library's iterator.
    assert len(outputs) > 0
    iterator = iter(outputs)
    texts.read.clear()
    next(iterator)
    assert texts.read == [0, 1]
    assert len(calls(instrumented)) == 1
    # The next item comes from the same batch.
    next(iterator)
    assert len(calls(instrumented)) == 1
    next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)
    first, second = calls(instrumented)
    assert first.attributes["llamatelemetry.batch.input_tokens"] == (3, 4)
    assert second.attributes["gen_ai.usage.input_tokens"] == 7


def test_call_records_phases_of_each_generation_when_list_is_not_batched(
    instrumented: Recorder, tmp_path: Path
) -> None:
    pipe = make_pipeline("text-generation", tmp_path)
    pipe(["a", "bb", "ccc"], max_new_tokens=3, do_sample=False)
    span = only(instrumented)
    assert span.attributes["llamatelemetry.batch.input_tokens"] == (1, 2, 3)
    assert span.attributes["gen_ai.usage.output_tokens"] == 9
    phases = [each for each in instrumented.spans() if "llamatelemetry.phase" in each.attributes]
    assert [each.name for each in phases] == ["prefill", "decode"] * 3
    starts = [each.start_time or 0 for each in phases]
    assert starts == sorted(starts)
    assert all((span.start_time or 0) <= start <= (span.end_time or 0) for start in starts)
    prefill = sum(each.attributes.get("gen_ai.prefill_ms", 0) for each in phases)
    assert span.attributes["gen_ai.prefill_ms"] == pytest.approx(prefill)
    (point,) = instrumented.points("gen_ai.server.time_to_first_token")
    assert point.count == 3


def test_operation_is_task_when_names_are_not_strict(
    instrument: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = instrument({"strict_operation_names": False})
    make_pipeline("text-classification", tmp_path)("Hello")
    span = only(recorder)
    assert span.attributes["gen_ai.operation.name"] == "text-classification"


def test_pipeline_inside_input_generator_is_a_separate_call(
    instrumented: Recorder, tmp_path: Path
) -> None:
    outer = make_pipeline("text-classification", tmp_path)
    inner = make_pipeline("text-generation", tmp_path)

    def inputs() -> Any:
        for text in ("one", "two"):
            yield inner(text, max_new_tokens=2, do_sample=False)[0]["generated_text"]

    assert len(list(outer(inputs()))) == 2
    names = [span.name for span in calls(instrumented)]
    assert sorted(names) == ["text-classification"] * 2 + ["text_completion"] * 2
    for span in calls(instrumented):
        assert span.parent is None


def test_error_of_input_generator_reaches_caller_unrecorded(
    instrumented: Recorder, tmp_path: Path
) -> None:
    pipe = make_pipeline("text-classification", tmp_path)

    def inputs() -> Any:
        yield "one"
        raise OSError("no more")

    iterator = iter(pipe(inputs()))
    next(iterator)
    with pytest.raises(OSError, match="no more"):
        next(iterator)
    assert only(instrumented).status.status_code is StatusCode.UNSET
